"""C++ for what a pass handles block by block: codes with scales, and random numbers.

A pass cuts its task into strips of whole blocks, and those into short runs. What a run's loop
over elements reads from blocks is decoded into an array on the stack before it, what it gives is
encoded from one at the end of the strip, again run by run: units of the processor that divide and
units that multiply work at the same time only on what is close together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ir.errors import CannotFuseError
from ..ir.expression import name, operand
from ..ir.graph import MOST, Graph
from ..ir.places import Places, label
from ..ir.stages import Stage
from .prelude import BLOCK

_STRIP = 512  # elements: their arrays stay in the first cache
_RUN = 64  # elements: a line of codes

PRELUDE = """\
// Random numbers of 16 bits for elements from ``at`` on, from the one whose number is a multiple of
// 8: Philox-4x32-10 gives four words a block, which are halved.
GX void gx_draw(gx_int seed, gx_int counter, gx_int at, gx_u32* out, gx_int n) {
  const gx_int first = at / 8, blocks = (at % 8 + n + 7) / 8;
  #pragma omp simd
  for (gx_int j = 0; j < blocks; ++j) {
    gx_u32 c0 = (gx_u32)(first + j), c1 = (gx_u32)((gx_u64)(first + j) >> 32);
    gx_u32 c2 = (gx_u32)counter, c3 = (gx_u32)((gx_u64)counter >> 32);
    gx_u32 k0 = (gx_u32)seed, k1 = (gx_u32)((gx_u64)seed >> 32);
    #pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const gx_u64 x = (gx_u64)c0 * 0xd2511f53u, y = (gx_u64)c2 * 0xcd9e8d57u;
      c0 = (gx_u32)(y >> 32) ^ c1 ^ k0;
      c2 = (gx_u32)(x >> 32) ^ c3 ^ k1;
      c1 = (gx_u32)y;
      c3 = (gx_u32)x;
      k0 += 0x9e3779b9u;
      k1 += 0xbb67ae85u;
    }
    out[4 * j] = c0;
    out[4 * j + 1] = c1;
    out[4 * j + 2] = c2;
    out[4 * j + 3] = c3;
  }
}
typedef gx_u16 __attribute__((may_alias)) gx_half_word;
GX gx_int gx_half_at(gx_int i) { return i ^ (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__); }
GX int gx_half(const gx_u32* words, gx_int i) {
  return ((const gx_half_word*)words)[gx_half_at(i)];
}
// The same for elements of a part of a leaf, see ``gx_number``; says which half the first one gets.
template <int WORDS> GX gx_int gx_draw_part(
    gx_int seed, gx_int counter, gx_int at, gx_int first, gx_int length, gx_int distance,
    gx_u32* out, gx_int n) {
  gx_int left = length - at % length;
  if (n <= left) {
    const gx_int number = gx_number(at, first, length, distance);
    gx_draw(seed, counter, number, out, n);
    return number % 8;
  }
  gx_u32 row[WORDS];
  for (gx_int k = 0; k < n; left = length) {
    const gx_int m = gx_least(left, n - k), number = gx_number(at + k, first, length, distance);
    gx_draw(seed, counter, number, row, m);
    for (gx_int j = 0; j < m; ++j, ++k)
      ((gx_half_word*)out)[gx_half_at(k)] = (gx_u16)gx_half(row, number % 8 + j);
  }
  return 0;
}
// Asks for the lines of SIZE elements, to be written or not.
template <gx_int SIZE, int WRITE, typename T> GX void gx_ask(const T* x) {
  #pragma GCC unroll 8
  for (gx_int k = 0; k < SIZE; k += (gx_int)(64 / sizeof(T))) __builtin_prefetch(x + k, WRITE);
}
GX gx_int gx_draw_one(gx_int seed, gx_int counter, gx_int at) {
  gx_u32 words[4];
  gx_draw(seed, counter, at, words, 1);
  return gx_half(words, at % 8);
}
"""


def strip(graph: Graph) -> int:
    """Elements of a strip: whole blocks and whole bytes.

    Raises:
        CannotFuseError: it would be too large for the stack.
    """
    sizes = [node.block for node in graph.nodes if node.block is not None]
    if not sizes:
        return BLOCK
    least = math.lcm(*sizes)
    if least > 2 * MOST:
        raise CannotFuseError("", f"has blocks that only fit together after {least} elements")
    return least * max(1, _STRIP // least)


class Arrays:
    """The arrays on the stack of one stage.

    Args:
        places: of the graph.
        stage: the stage.
        size: elements of a strip.
    """

    def __init__(self, places: Places, stage: Stage, size: int) -> None:
        self.graph = places.graph
        self.size = size
        nodes = self.graph.nodes
        self.decoded = [i for i in stage.elements if nodes[i].op == "block_decode"]
        self.drawn = [i for i in stage.elements if nodes[i].op == "random16"]
        self.encoded = stage.encoded(self.graph)
        written = {target for target, _ in stage.writes}
        read = [nodes[i] for i in stage.elements if nodes[i].op == "input"]
        self.asked = {label(n.value): n.value in written for n in read if n.form == "element"}
        sizes = {nodes[i].value[1] for i in self.decoded} | {spec[1] for _, spec in self.encoded}
        self.lined = bool(sizes) and all(n % _RUN == 0 for n in sizes)
        self.run = _RUN if self.lined else size  # elements of a run
        self.group = math.gcd(*sizes) if self.lined else size  # of runs with the same scales
        self.products = self._products(stage) if self.lined else {}
        self.whole = {i for i, _ in self.products.values()}

    def __bool__(self) -> bool:
        return bool(self.decoded or self.drawn or self.encoded)

    def _products(self, stage: Stage) -> dict[int, tuple[int, int]]:
        """Where a decoded value is used for nothing but products with scalars: value and scalar."""
        out: dict[int, tuple[int, int]] = {}
        for i in self.decoded:
            users = [j for j, node in enumerate(self.graph.nodes) if i in node.args]
            pairs = [(j, self._scalar(j, i)) for j in users if j in stage.elements]
            if len(pairs) == len(users) and all(a is not None for _, a in pairs):
                out |= {j: (i, a) for j, a in pairs if a is not None}
        return out

    def _scalar(self, product: int, i: int) -> int | None:
        node = self.graph.nodes[product]
        others = [a for a in node.args if a != i and not self.graph.nodes[a].many]
        if node.op != "mul" or node.dtype != "float32" or len(others) != 1:
            return None
        return others[0]

    def declare(self) -> list[str]:
        """The arrays that a strip's runs write."""
        return [f"alignas(64) float {_source(k)}[{self.size}];" for k in self.encoded]

    def scales(self, at: str) -> list[str]:
        """Variables for what a group of runs shares; ``at`` is its first element."""
        nodes, lines = self.graph.nodes, []
        for i in self.decoded if self.lined else ():
            where = f"p_{label(nodes[nodes[i].args[1]].value)}[({at}) / {nodes[i].value[1]}]"
            lines.append(f"const float scale{i} = {where};")
        for j, (i, a) in self.products.items():
            unit = f"gx_parts<{_kind(nodes[i].value)}>::unit"
            scalar = operand(self.graph, a, "float", True)
            lines.append(f"const float scale{j} = scale{i} * {unit} * {scalar};")
        return lines

    def before(self, at: str) -> list[str]:
        """Fill the arrays that the loop reads; ``at`` is the first element, ``size`` how many."""
        nodes, lines = self.graph.nodes, []
        for i in self.decoded:
            codes, scale = (f"p_{label(nodes[a].value)}" for a in nodes[i].args)
            bits, block, _ = nodes[i].value
            codes = f"{codes} + ({at}) / {8 // bits}"
            lines.append(f"alignas(64) float part{i}[{self.run}];")
            if self.lined:
                kind = f"{_kind(nodes[i].value)}, {str(i in self.whole).lower()}"
                lines.append(f"gx_decode_part<{kind}>({codes}, scale{i}, part{i}, size, false);")
            else:
                kind, scale = f"{_kind(nodes[i].value)}, {block}", f"{scale} + ({at}) / {block}"
                lines.append(f"gx_decode<{kind}>({codes}, {scale}, part{i}, size);")
        for i in self.drawn:
            given = [operand(self.graph, a, "gx_int", False) for a in nodes[i].args]
            key, numbers, words = ", ".join(given[:2]), given[2:], self.run // 2 + 8
            lines.append(f"alignas(64) gx_u32 part{i}[{words}];")
            if numbers:
                drawn = f"{key}, {at}, {', '.join(numbers)}, part{i}, size"
                lines.append(f"const gx_int shift{i} = gx_draw_part<{words}>({drawn});")
            else:
                lines.append(f"gx_draw({key}, {at}, part{i}, size);")
                lines.append(f"const gx_int shift{i} = ({at}) % 8;")
        return lines

    def value(self, i: int) -> str:
        """An element of such an array, or a product with one, "" for other nodes."""
        if i in self.decoded:
            return f"part{i}[k]"
        if i in self.products:
            return f"scale{i} * {name(self.products[i][0])}"
        return f"gx_half(part{i}, shift{i} + k)" if i in self.drawn else ""

    def store(self) -> list[str]:
        """Statements in the loop that keep what is encoded."""
        return [f"{_source(key)}[run + k] = {name(key[0])};" for key in self.encoded]

    def after(self, at: str) -> list[str]:
        """Encode the ``all`` elements of a strip that begins at ``at``."""
        lines, own, encode = [], [], []
        # Meanwhile nothing else asks for memory, and the processor does so up to the end of a page.
        to = f"{at} + run + {self.size}"
        ask = [
            f"gx_ask<{self.run}, {int(write)}>(p_{where} + {to});"
            for where, write in self.asked.items()
        ]
        wide: list[str] = []
        tests = ["GX_WIDE", f"last - first == {self.group}"]
        for key, targets in self.encoded.items():
            bits, block, _ = key[1]
            x, kind = _source(key), _kind(key[1])
            if "block_scale" in targets:
                to = f"p_{label(targets['block_scale'])} + ({at}) / {block}"
                lines.append(f"float* const {x}_scale = {to};")
            else:
                lines.append(f"float {x}_scale[{self.size // block}];")
            lines.append(f"float {x}_factor[{self.size // block}];")
            lines.append(f"gx_scales<{kind}, {block}>({x}, {x}_scale, {x}_factor, all);")
            if "block_codes" not in targets:
                continue
            to = f"p_{label(targets['block_codes'])} + ({at} + run) / {8 // bits}"
            if self.lined:
                given = f"{x} + run, {to}, {x}_s, {x}_f"
                own.append(f"const float {x}_s = {x}_scale[first / {block}];")
                own.append(f"const float {x}_f = {x}_factor[first / {block}];")
                tests.append(f"{x}_f >= 0.0f")
                part_to = f"p_{label(targets['block_codes'])} + ({at} + part) / {8 // bits}"
                wide.append(f"gx_wide_encode<{kind}>({x} + part, {part_to}, {x}_s, {x}_f);")
                encode.append(f"gx_encode_part<{kind}>({given}, size, false);")
            else:
                own_blocks = f"{x}_scale + run / {block}, {x}_factor + run / {block}"
                given = f"{x} + run, {to}, {own_blocks}, size"
                encode.append(f"gx_encode<{kind}, {block}>({given});")
        if not encode:
            return lines
        each = f"for (gx_int part = run; part < run + {self.run}; part += 16 * GX_SIDE) {{"
        wide = [*ask, each, *_in(wide), "}"] if wide else []
        return [*lines, *self.runs(encode, own, wide, " && ".join(tests))]

    def runs(
        self, body: list[str], head: list[str], wide: Sequence[str] = (), test: str = ""
    ) -> list[str]:
        """Statements for all runs of a strip of ``all`` elements.

        Args:
            body: for one run, ``size`` elements from ``run`` on.
            head: for a group of runs, from ``first`` to ``last``.
            wide: for one run, instead of ``body`` in groups where ``test`` holds.
            test: an expression.
        """
        loop = [f"const auto size = gx_run<{self.run}>(all, run);", *body]
        if not head:
            return [f"for (gx_int run = 0; run < all; run += {self.run}) {{", *_in(loop), "}"]
        each = f"for (gx_int run = first; run < last; run += {self.run}) {{"
        inner = [each, *_in(loop), "}"]
        if wide:
            inner = [f"if ({test}) {each}", *_in(wide), "} else", *_in(inner)]
        return [
            f"for (gx_int first = 0; first < all; first += {self.group}) {{",
            f"  const gx_int last = gx_least(first + {self.group}, all);",
            *_in([*head, *inner]),
            "}",
        ]


def _in(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _source(key: tuple[int, tuple[int, int, bool]]) -> str:
    bits, block, signed = key[1]
    return f"full{key[0]}_{bits}_{block}_{int(signed)}"


def _kind(spec: tuple[int, int, bool]) -> str:
    bits, _, signed = spec
    return f"{bits}, {str(signed).lower()}"
