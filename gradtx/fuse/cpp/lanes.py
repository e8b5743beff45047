"""The statements of a pass for sixteen elements at a time: what ``vectors`` has words for.

Compilers do not make short code of a loop that sums up along rows and columns and reads and writes
bits; with vectors it takes a third less time. Text in plain C stays for what they cannot say, and
for processors without them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.expression import literal, name, operand
from ..ir.graph import FLOATS, VECTORS, Node
from ..ir.places import Places, label
from ..ir.stages import Stage
from .passes import Accumulator

_REAL = tuple(dtype for dtype in FLOATS if dtype != "float64")
_LOW = {"bfloat16": "gx_round_bfloat16", "float16": "gx_round_float16"}
_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_LOGIC = {"and": "&", "or": "|", "xor": "^"}
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_CALLS = ("abs", "sqrt", "rsqrt", "reciprocal", "sign", "max", "min", "copysign")
_OPS = {
    "real": (*_INFIX, *_CALLS, "neg", "where", "cast", "fill"),
    "truth": (*_LOGIC, *_COMPARISONS, "not", "where", "cast", "fill", "unpack_signs"),
}


class VectorAccumulator(Accumulator):
    """A reduction whose variable in a loop is a vector; a NaN wins in all of them."""

    def declare(self) -> list[str]:
        return [f"gx_wide a{self.mark} = gx_spread((float){self.start});"]

    def step(self) -> list[str]:
        a, x = f"a{self.mark}", f"gx_only({self.value}, lanes, (float){self.start})"
        return [f"{a} = gx_{self.op}({x}, {a});"]

    def finish(self) -> list[str]:
        x = f"(double)gx_fold_{self.op}(a{self.mark})"
        if self.op == "sum":
            return [f"{self.total} += {x};"]
        return [f"{self.total} = gx_{self.op}({self.total}, {x});"]


class Lanes:
    """Writes what a stage does with all its elements.

    Args:
        places: of the graph.
        stage: the stage, without slices.
    """

    def __init__(self, places: Places, stage: Stage) -> None:
        self.places = places
        self.graph = places.graph
        self.nodes = places.graph.nodes
        self.stage = stage

    def __bool__(self) -> bool:
        """Whether vectors can say it all."""
        reduced = [self.nodes[self.nodes[i].args[0]] for i in self.stage.reductions]
        written = [self.nodes[i] for _, i in self.stage.writes]
        return (
            all(self._fits(i) for i in self.stage.elements)
            and all(node.dtype in _REAL for node in reduced)
            and all(node.dtype in _REAL or node.op == "pack_signs" for node in written)
        )

    def _fits(self, i: int) -> bool:
        node = self.nodes[i]
        args = [self.nodes[a] for a in node.args]
        if any(arg.form in VECTORS and arg.dtype not in _REAL for arg in args):
            return False
        if node.form == "bits":
            return node.op == "input" or args[0].dtype in _REAL
        if node.op == "input":
            return node.form == "element" and node.dtype in _REAL
        if node.form != "element" or (node.op in _COMPARISONS and node.value not in _REAL):
            return False
        kind = "real" if node.dtype in _REAL else "truth" if node.dtype == "bool" else ""
        return node.op in _OPS.get(kind, ())

    def uniforms(self) -> list[str]:
        """Scalars of the loop, sixteen times."""
        used = (a for i in self.stage.elements for a in self.nodes[i].args)
        return [
            f"const gx_wide w{a} = gx_spread({operand(self.graph, a, 'float', True)});"
            for a in dict.fromkeys(used)
            if not self.nodes[a].many and self.nodes[a].op != "const"
        ]

    def body(self, at: str, bits: str = "", row: str = "") -> list[str]:
        """The statements.

        Args:
            at: position of the first of the elements in their leaf.
            bits: position of their byte in an array of bits.
            row: ending of the names of what belongs to a row.
        """
        lines = []
        for i in self.stage.elements:
            node = self.nodes[i]
            if node.form != "bits":
                kind = "gx_mask" if node.dtype == "bool" else "gx_wide"
                lines.append(f"const {kind} {name(i)} = {self._value(i, at, bits)};")
        for target, i in self.stage.writes:
            node, where = self.nodes[i], f"p_{label(target)} + {at}"
            if node.op == "pack_signs":
                where, value = f"p_{label(target)} + {bits}", self.real(node.args[0])
                lines.append(f"gx_write_bits({where}, gx_gt({value}, gx_wide{{}}), lanes);")
            else:
                lines.append(f"gx_write({where}, {name(i)}, lanes);")
        return lines

    def _value(self, i: int, at: str, bits: str) -> str:
        node = self.nodes[i]
        if node.op == "input":
            return f"gx_read(p_{label(node.value)} + {at}, lanes)"
        if node.op == "unpack_signs":
            where = self.nodes[node.args[0]].value
            return f"gx_read_bits(p_{label(where)} + {bits}, lanes)"
        text = self._truth_of(node) if node.dtype == "bool" else self._real_of(node)
        return f"{_LOW[node.dtype]}({text})" if node.dtype in _LOW else text

    def _real_of(self, node: Node) -> str:
        if node.op == "where":
            test, *args = node.args
            return f"gx_where({self._truth(test)}, {self._list(args)})"
        if node.op in ("cast", "fill"):
            return self.real(node.args[0])
        if node.op == "neg":
            return f"(-{self.real(node.args[0])})"
        if node.op in _INFIX:
            x, y = (self.real(a) for a in node.args)
            return f"({x} {_INFIX[node.op]} {y})"
        return f"gx_{node.op}({self._list(node.args)})"

    def _truth_of(self, node: Node) -> str:
        if node.op in _COMPARISONS:
            return f"gx_{node.op}({self._list(node.args)})"
        args = [self._truth(a) for a in node.args]
        if node.op == "where":
            return f"gx_where({', '.join(args)})"
        if node.op == "not":
            return f"(gx_mask)~{args[0]}"
        return f"(gx_mask)({f' {_LOGIC[node.op]} '.join(args)})" if node.op in _LOGIC else args[0]

    def _list(self, args: Sequence[int]) -> str:
        return ", ".join(self.real(a) for a in args)

    def real(self, i: int) -> str:
        """A node as a vector of numbers."""
        node = self.nodes[i]
        if node.op == "const":
            return f"gx_spread({literal(node, 'float')})"
        if not node.many:
            return f"w{i}"
        if node.dtype == "bool":
            return f"gx_where({name(i)}, gx_spread(1.0f), gx_wide{{}})"
        return name(i)

    def _truth(self, i: int) -> str:
        """A node as a mask."""
        node = self.nodes[i]
        if not node.many:
            return f"(gx_mask)-({operand(self.graph, i, 'int', True)} != 0)"
        return name(i) if node.dtype == "bool" else f"gx_ne({name(i)}, gx_wide{{}})"


def in_vectors(body: Sequence[str]) -> list[str]:
    """A loop over ``size`` elements; ``k`` is the first of those that the body is about."""
    return [
        "const auto some = [&](const gx_int k, const auto lanes) __attribute__((always_inline)) {",
        *(f"  {line}" for line in body),
        "};",
        "const gx_int whole = size & -16;",
        "gx_int k = 0;",
        "for (; k < whole; k += 16) some(k, gx_all{});",
        "if (k < size) some(k, gx_first(size - k));",
    ]


def either(wide: list[str], plain: list[str]) -> list[str]:
    """What is compiled where there are vectors, and elsewhere."""
    return ["#if GX_WIDE", *wide, "#else", *plain, "#endif"] if wide else plain
