"""CUDA C++ for a pass over leaves that are seen as matrices.

A task is a tile of some rows and up to ``WIDTH`` columns, one block each. A warp takes every
eighth row, a lane every 32nd column. So sums of rows are sums over a warp, sums of columns stay
with their lanes until the end, and signs are packed by ballot. What a tile finds is kept apart from
what others find, and joined in order by whoever needs it.
"""

from __future__ import annotations

from ..ir.expression import c_type, name, operand
from ..ir.graph import VECTORS, Input
from ..ir.places import Places, label
from ..ir.stages import Stage
from .passes import Accumulator, Arrays, body, partial, slices, uniforms
from .prelude import STORAGE


class MatrixPass:
    """Writes the pass of one stage."""

    def __init__(self, places: Places, stage: Stage) -> None:
        self.places = places
        self.nodes = nodes = places.graph.nodes
        self.all = stage
        self.stage = stage = stage.whole(places.graph)
        self.arrays = Arrays(places.graph, stage)
        parts = [Accumulator(places, i) for i in stage.reductions]
        self.totals = [part for part in parts if nodes[part.node].form == "scalar"]
        sums = [i for i in self.all.reductions if i not in stage.reductions]
        self.of_slices = [Accumulator(places, i) for i in sums]
        self.rows = [part for part in parts if nodes[part.node].form == "row"]
        self.columns = [part for part in parts if nodes[part.node].form == "column"]
        used = (a for i in stage.elements for a in nodes[i].args)
        vectors = [a for a in dict.fromkeys(used) if nodes[a].form in VECTORS]
        self.row_vectors = [a for a in vectors if nodes[a].form == "row"]
        self.column_vectors = [a for a in vectors if nodes[a].form == "column"]
        bits = [i for i in stage.elements if nodes[i].form == "bits"]
        self.unpacked = [i for i in bits if nodes[i].op == "input"]
        self._of_bits = {nodes[i].value for i in self.unpacked}
        self.packed = [i for i in bits if nodes[i].op == "pack_signs"]

    def write(self) -> list[str]:
        """The statements."""
        vectors = (*self.row_vectors, *self.column_vectors)
        return [
            *_TILE,
            *Arrays(self.places.graph, self.all).pointers(self.places),
            *uniforms(self.places, self.all),
            *(f"const auto* const x{a} = {vector(self.places, a)};" for a in vectors),
            *self._column_vectors(),
            *(f"{part.kind} a{part.node}[{_STEPS}];" for part in self.columns),
            *_each_column([f"a{part.node}[j] = {part.start};" for part in self.columns]),
            *(f"double total{part.node} = {part.op}::none();" for part in self.totals),
            *(f"{part.kind} a{part.node} = {part.start};" for part in self.of_slices),
            *self._slices(),
            "const auto rows = [&](const auto is_full) {",
            "  for (gx_int i = r0 + gx_warp(); i < r1; i += gx_warps()) {",
            *(f"    {line}" for line in self._row()),
            "  }",
            "};",
            "if (wide == GX_WIDTH) rows(gx_flag<true>()); else rows(gx_flag<false>());",
            *(line for part in self.totals for line in self._total(part)),
            *(
                line
                for p in self.of_slices
                for line in partial(self.places, p, f"(double)a{p.node}")
            ),
            *(self._down(part) for part in self.columns),
        ]

    def _slices(self) -> list[str]:
        begin, end = "i * b + c0", "i * b + c0 + wide"
        lines = slices(self.places, self.all, begin, end, ("lane", "32"))
        rows = "for (gx_int i = r0 + gx_warp(); i < r1; i += gx_warps()) {"
        return [rows, *(f"  {line}" for line in lines), "}", "__syncthreads();"] * bool(lines)

    # -- one row -----------------------------------------------------------------------------

    def _row(self) -> list[str]:
        within = [*self.totals, *self.rows]
        return [
            "const gx_int at = i * b + c0 + lane;",
            *(self._load(a, f"x{a}[i]") for a in self.row_vectors),
            *(f"{part.kind} a{part.node} = {part.start};" for part in within),
            *(f"const gx_u32 bits{i} = {self._bits(self._pointer(i))};" for i in self.unpacked),
            *(f"gx_u32 bits{i} = 0;" for i in self.packed),
            *self._loads(),
            "#pragma unroll",
            f"for (int j = 0; j < {_STEPS}; ++j) {{",
            *(f"  {line}" for line in self._step()),
            "}",
            *self._store_bits(),
            *(
                f"total{p.node} = {p.op}::join(total{p.node}, (double)a{p.node});"
                for p in self.totals
            ),
            *(line for part in self.rows for line in self._store_row(part)),
        ]

    def _loads(self) -> list[str]:
        """Ask for all elements of a lane at once, so that no load waits for a store."""
        loads = {w: d for w, d in self.arrays.read.items() if w not in self._of_bits}
        lines = [f"{STORAGE[dtype][0]} i_{label(w)}[{_STEPS}];" for w, dtype in loads.items()]
        each = [f"if ({_INSIDE}) {_loaded(w)} = {_target(w)};" for w in loads]
        return [*lines, *_each_column(each)]

    def _step(self) -> list[str]:
        """One element of every lane."""
        element = [self._load(a, f"held{a}[j]") for a in self.column_vectors]
        element += body(self.places, self.stage, _loaded, _target, "at + 32 * j")
        element += [part.step(f"a{part.node}") for part in (*self.totals, *self.rows)]
        element += [part.step(f"a{part.node}[j]") for part in self.columns]
        element += [f"up{i} = {self._positive(i)};" for i in self.packed]
        lines = []
        for i in self.unpacked:
            byte = f"__shfl_sync(GX_ALL, bits{i}, 4 * j + lane / 8)"
            lines.append(f"const int flag{i} = {byte} >> lane % 8 & 1;")
        lines += [f"int up{i} = 0;" for i in self.packed]
        lines += [f"if ({_INSIDE}) {{", *(f"  {x}" for x in element), "}"]
        for i in self.packed:
            lines.append(f"const gx_u32 word{i} = __ballot_sync(GX_ALL, up{i});")
            lines.append(f"if (lane / 4 == j) bits{i} = word{i} >> lane % 4 * 8 & 255u;")
        return lines

    def _positive(self, i: int) -> str:
        source = self.nodes[i].args[0]
        kind = c_type(self.nodes[source].dtype, True)
        return f"{operand(self.places.graph, source, kind, True)} > 0"

    def _load(self, i: int, value: str) -> str:
        return f"const {c_type(self.nodes[i].dtype, True)} {name(i)} = gx_load({value});"

    def _pointer(self, i: int) -> str:
        return f"p_{label(self.nodes[i].value)}"

    @staticmethod
    def _bits(pointer: str) -> str:
        """The byte of signs that is a lane's own."""
        return f"8 * lane < wide ? {pointer}[i * ((b + 7) / 8) + c0 / 8 + lane] : 0"

    def _store_bits(self) -> list[str]:
        lines = []
        for where, i in self.stage.writes:
            if self.nodes[i].form == "bits":
                to = f"p_{label(where)}[i * ((b + 7) / 8) + c0 / 8 + lane]"
                lines.append(f"if (8 * lane < wide) {to} = (unsigned char)bits{i};")
        return lines

    # -- sums ----------------------------------------------------------------------------------

    def _store_row(self, part: Accumulator) -> list[str]:
        kind, y = self.places.vector_type(part.node), self.places.vector_of(part.node)
        return [
            f"a{part.node} = gx_across<{part.op}>(a{part.node});",
            f"if (lane == 0) ({y})[piece * a + i] = ({kind})a{part.node};",
        ]

    def _total(self, part: Accumulator) -> list[str]:
        return partial(self.places, part, f"total{part.node}")

    def _down(self, part: Accumulator) -> str:
        y = f"{self.places.vector_of(part.node)} + stripe * b + c0"
        return f"gx_down<{part.op}>(a{part.node}, {y}, wide);"

    def _column_vectors(self) -> list[str]:
        lines, loads = [], []
        for a in self.column_vectors:
            kind = c_type(self.nodes[a].dtype, True)
            lines.append(f"{kind} held{a}[{_STEPS}];")
            load = f"gx_load(x{a}[c0 + 32 * j + lane])"
            loads.append(f"held{a}[j] = 32 * j + lane < wide ? {load} : 0;")
        return [*lines, *_each_column(loads)]


def vector(places: Places, i: int) -> str:
    """Where the values of a vector begin."""
    if i in places.vector:
        return places.vector_of(i)
    node = places.graph.nodes[i]
    return f"(const {STORAGE[node.dtype][0]}*){places.address(node.value)}"


def _loaded(where: Input) -> str:
    return f"i_{label(where)}[j]"


def _target(where: Input) -> str:
    return f"p_{label(where)}[at + 32 * j]"


def _each_column(lines: list[str]) -> list[str]:
    """A loop over the columns of a lane."""
    loop = ["#pragma unroll", f"for (int j = 0; j < {_STEPS}; ++j) {{"]
    return [*loop, *(f"  {line}" for line in lines), "}"] * bool(lines)


_STEPS = "GX_WIDTH / 32"
_INSIDE = "is_full || 32 * j + lane < wide"
_TILE = [
    "const gx_int leaf = A->task_leaf[blockIdx.x], a = A->rows[leaf], b = A->columns[leaf];",
    "const gx_int tile = blockIdx.x - A->first_task[leaf], across = gx_pieces(b, GX_WIDTH);",
    "const gx_int stripe = tile / across, piece = tile % across;",
    "const gx_int r0 = stripe * A->tile_rows[leaf];",
    "const gx_int r1 = gx_least(r0 + A->tile_rows[leaf], a), c0 = piece * GX_WIDTH;",
    "const int wide = (int)gx_least(b - c0, GX_WIDTH), lane = gx_lane();",
]
