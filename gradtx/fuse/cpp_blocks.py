"""C++ for what a pass handles block by block: codes with scales, and random numbers.

A pass cuts its task into segments of whole blocks, and those into short runs. What a run's loop
over elements reads from blocks is decoded into an array on the stack before it, what it gives is
encoded from one at the end of the segment, again run by run: units of the processor that divide and
units that multiply work at the same time only on what is close together.
"""

from __future__ import annotations

import math

from .cpp_prelude import BLOCK
from .errors import CannotFuseError
from .expression import name, operand
from .graph import MOST, Graph
from .places import Places, label
from .schedule import Stage

_SEGMENT = 512  # elements: their arrays stay in the first cache
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
GX int gx_half(const gx_u32* words, gx_int i) {
  return ((const gx_half_word*)words)[i ^ (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)];
}
GX gx_int gx_draw_one(gx_int seed, gx_int counter) {
  gx_u32 words[4];
  gx_draw(seed, counter, 0, words, 1);
  return gx_half(words, 0);
}
"""


def segment(graph: Graph) -> int:
    """Elements of a segment: whole blocks and whole bytes.

    Raises:
        CannotFuseError: it would be too large for the stack.
    """
    sizes = [node.each for node in graph.nodes if node.each is not None and node.step is None]
    if not sizes:
        return BLOCK
    least = math.lcm(*sizes)
    if least > 2 * MOST:
        raise CannotFuseError("", f"has blocks that only fit together after {least} elements")
    return least * max(1, _SEGMENT // least)


class Arrays:
    """The arrays on the stack of one stage.

    Args:
        places: of the graph.
        stage: the stage.
        size: elements of a segment.
    """

    def __init__(self, places: Places, stage: Stage, size: int) -> None:
        self.graph = places.graph
        self.size = size
        nodes = self.graph.nodes
        self.decoded = [i for i in stage.elements if nodes[i].op == "block_decode"]
        self.drawn = [i for i in stage.elements if nodes[i].op == "random16"]
        self.encoded = stage.encoded(self.graph)

    def __bool__(self) -> bool:
        return bool(self.decoded or self.drawn or self.encoded)

    @property
    def run(self) -> int:
        """Elements of a run: codes are decoded and encoded by the line where blocks allow it."""
        sizes = [self.graph.nodes[i].value[1] for i in self.decoded]
        sizes += [spec[1] for _, spec in self.encoded]
        return _RUN if sizes and all(n % _RUN == 0 for n in sizes) else self.size

    def declare(self) -> list[str]:
        """The arrays that a segment's runs write."""
        return [f"alignas(64) float {_source(k)}[{self.size}];" for k in self.encoded]

    def before(self, at: str) -> list[str]:
        """Fill the arrays that the loop reads; ``at`` is the first element, ``size`` how many."""
        nodes, lines = self.graph.nodes, []
        for i in self.decoded:
            codes, scale = (f"p_{label(nodes[a].value)}" for a in nodes[i].args)
            bits, block, _ = nodes[i].value
            given = f"{codes} + ({at}) / {8 // bits}, {scale} + ({at}) / {block}"
            lines.append(f"alignas(64) float part{i}[{self.run}];")
            lines.append(f"gx_decode<{_types(nodes[i].value)}>({given}, part{i}, size);")
        for i in self.drawn:
            key = ", ".join(operand(self.graph, a, "gx_int", False) for a in nodes[i].args)
            lines.append(f"alignas(64) gx_u32 part{i}[{self.run // 2 + 8}];")
            lines.append(f"gx_draw({key}, {at}, part{i}, size);")
            lines.append(f"const gx_int shift{i} = ({at}) % 8;")
        return lines

    def value(self, i: int) -> str:
        """An element of such an array, "" for other nodes."""
        if i in self.decoded:
            return f"part{i}[k]"
        return f"gx_half(part{i}, shift{i} + k)" if i in self.drawn else ""

    def store(self) -> list[str]:
        """Statements in the loop that keep what is encoded."""
        return [f"{_source(key)}[run + k] = {name(key[0])};" for key in self.encoded]

    def after(self, at: str) -> list[str]:
        """Encode the ``all`` elements of a segment that begins at ``at``."""
        lines, encode = [], []
        for key, targets in self.encoded.items():
            bits, block, _ = key[1]
            x, kind = _source(key), _types(key[1])
            s, factor = f"scale_{x}", f"factor_{x}"
            if "block_scale" in targets:
                to = f"p_{label(targets['block_scale'])} + ({at}) / {block}"
                lines.append(f"float* const {s} = {to};")
            else:
                lines.append(f"float {s}[{self.size // block}];")
            lines.append(f"float {factor}[{self.size // block}];")
            lines.append(f"gx_scales<{kind}>({x}, {s}, {factor}, all);")
            if "block_codes" in targets:
                to = f"p_{label(targets['block_codes'])} + ({at} + run) / {8 // bits}"
                own = f"{s} + run / {block}, {factor} + run / {block}"
                encode.append(f"gx_encode<{kind}>({x} + run, {to}, {own}, size);")
        return [*lines, *runs(self.run, encode)] if encode else lines


def runs(size: int, body: list[str]) -> list[str]:
    """Statements for every run of a segment of ``all`` elements: ``size`` from ``run`` on.

    Args:
        size: elements of a run but for the last.
        body: the statements.
    """
    return [
        f"for (gx_int run = 0; run < all; run += {size}) {{",
        f"  const auto size = gx_run<{size}>(all, run);",
        *(f"  {line}" for line in body),
        "}",
    ]


def _source(key: tuple[int, tuple[int, int, bool]]) -> str:
    bits, block, signed = key[1]
    return f"full{key[0]}_{bits}_{block}_{int(signed)}"


def _types(spec: tuple[int, int, bool]) -> str:
    bits, block, signed = spec
    return f"{bits}, {str(signed).lower()}, {block}"
