"""C++ for a pass over leaves that are seen as matrices.

A task is a tile: a stripe of rows, all columns or a block of them. It goes over it row by row, so
that memory is read as a stream; over some rows at a time where they share sums of columns, or what
belongs to columns does not stay in the nearest cache. Sums of rows are finished in the tile, sums
of columns are left behind per tile and added up in order by whoever needs them.
"""

from __future__ import annotations

from collections.abc import Callable

from ..ir.expression import c_type, name, operand
from ..ir.graph import VECTORS, Input
from ..ir.places import Places, label
from ..ir.stages import Stage
from .blocks import Arrays
from .lanes import Lanes, VectorAccumulator, either, in_vectors
from .passes import Accumulator, body, pointers, slices, uniforms
from .prelude import STORAGE, STRIP, WIDTH

_BLOCK = 512  # columns of a block: its flags stay in the first cache
_NEAR = 4096  # elements of all columns from which rows are taken in pairs: half of the first cache
_ROWS = 4  # of a loop with vectors that sums up columns: a row alone waits for memory
_STAGGER = 208  # elements that keep columns of two arrays off the same sets of a cache


class MatrixPass:
    """Writes the pass of one stage."""

    def __init__(self, places: Places, stage: Stage) -> None:
        self.places = places
        self.nodes = places.graph.nodes
        self.all = stage
        self.stage = stage = stage.whole(places.graph)
        by_form: dict[str, list[int]] = {"scalar": [], "row": [], "column": []}
        for i in stage.reductions:
            by_form[self.nodes[i].form].append(i)
        graph = places.graph
        self.totals = [Accumulator(graph, i, f"total{i}") for i in by_form["scalar"]]
        sums = [i for i in self.all.reductions if i not in stage.reductions]
        self.of_slices = [Accumulator(graph, i, f"total{i}") for i in sums]
        self.columns = [Accumulator(graph, i, f"total{i}") for i in by_form["column"]]
        self.row_reductions = by_form["row"]
        self.arrays = Arrays(places, stage, _BLOCK)
        self.lanes = None if self.arrays else Lanes(places, stage)
        used = (a for i in stage.elements for a in self.nodes[i].args)
        self.vectors = [a for a in dict.fromkeys(used) if self.nodes[a].form in VECTORS]
        self.unpacked = [i for i in stage.elements if self.nodes[i].op == "input"]
        self.unpacked = [i for i in self.unpacked if self.nodes[i].form == "bits"]
        self.packed = [(t, i) for t, i in stage.writes if self.nodes[i].form == "bits"]

    def write(self) -> list[str]:
        """The statements."""
        return [
            *_TILE,
            *pointers(self.places, self.all),
            *uniforms(self.places, self.all),
            *(f"const auto* const x{a} = {self._vector(a)};" for a in self.vectors),
            *(f"double {p.total} = {p.start};" for p in (*self.totals, *self.of_slices)),
            *self._column_totals(),
            f"for (gx_int first = r0; first < r1; first += {STRIP}) {{",
            *(f"  {line}" for line in self._clear_columns()),
            f"  const gx_int last = gx_least(first + {STRIP}, r1);",
            *(f"  {line}" for line in self._slices()),
            *(f"  {line}" for line in either(self._each_row(True), self._each_row(False))),
            *(f"  {line}" for line in self._fold_columns()),
            "}",
            *self._store_columns(),
            *(
                f"A->partial[{self.places.partial[part.node]} * A->tasks + task] = {part.total};"
                for part in (*self.totals, *self.of_slices)
            ),
        ]

    def _slices(self) -> list[str]:
        lines = slices(self.places, self.all, "i * b + c0", "i * b + c1")
        return ["for (gx_int i = first; i < last; ++i) {", *_indent(lines), "}"] * bool(lines)

    def _vector(self, i: int) -> str:
        if i in self.places.vector:
            return self.places.vector_of(i)
        node = self.nodes[i]
        return f"(const {STORAGE[node.dtype]}*){self.places.address(node.value)}"

    def _load(self, i: int, at: str, row: str = "") -> str:
        kind = c_type(self.nodes[i].dtype, True)
        return f"const {kind} {name(i)}{row} = gx_load(x{i}[{at}]);"

    def _of_form(self, form: str) -> list[int]:
        return [a for a in self.vectors if self.nodes[a].form == form]

    # -- one row, or some of them ----------------------------------------------------------------

    def _each_row(self, wide: bool) -> list[str]:
        """The rows from ``first`` to ``last``, with vectors if ``wide``; nothing if none do."""
        if wide and not self.lanes:
            return []
        rows = self._wide_rows if wide else self._rows
        return [
            "gx_int i = first;",
            *(self._some(_ROWS, rows) * bool(self.columns) if wide else self._pairs()),
            "for (; i < last; ++i) {",
            *_indent(rows(1)),
            "}",
        ]

    def _pairs(self) -> list[str]:
        if self.arrays or not (self.columns or self._of_form("column")):
            return []
        wide = _NEAR // (len(self.columns) + len(self._of_form("column")))
        return [f"if (b > {wide})", *self._some(2, self._rows)]

    def _some(self, count: int, rows: Callable[[int], list[str]]) -> list[str]:
        each = f"for (; i + {count} <= last; i += {count}) {{"
        return [each, *_indent(rows(count)), "}"]

    def _wide_rows(self, count: int) -> list[str]:
        """What ``_rows`` says, with vectors."""
        assert self.lanes is not None
        graph, rows = self.places.graph, [f"_{r}" for r in range(count)]
        sums = {
            r: [VectorAccumulator(graph, i, f"total{i}{r}", r) for i in self.row_reductions]
            for r in rows
        }
        totals = {
            r: [VectorAccumulator(graph, p.node, p.total, r) for p in self.totals] for r in rows
        }
        every = [part for r in rows for part in (*totals[r], *sums[r])]
        lines = [*self.lanes.uniforms()]
        for k, r in enumerate(rows):
            lines.append(f"const gx_int i{r} = i + {k};")
            lines += [f"double {part.total} = {part.start};" for part in sums[r]]
            for a in self._of_form("row"):
                lines.append(f"const gx_wide {name(a)}{r} = gx_spread(gx_load(x{a}[i{r}]));")
        loop = [
            f"const gx_wide {name(a)} = gx_read(x{a} + c + k, lanes);"
            for a in self._of_form("column")
        ]
        for r in rows:
            loop += [f"gx_wide taken{part.node}{r};" for part in self.columns]
            body = [f"const gx_wide {name(a)} = {name(a)}{r};" for a in self._of_form("row")]
            body += self.lanes.body(f"i{r} * b + c + k", f"i{r} * ((b + 7) / 8) + (c + k >> 3)")
            body += [line for part in (*totals[r], *sums[r]) for line in part.step()]
            for p in self.columns:
                body.append(f"taken{p.node}{r} = {self.lanes.real(self.nodes[p.node].args[0])};")
            loop += ["{", *_indent(body), "}"]
        for p in self.columns:
            joined = "gx_read(to, gx_all{})"
            for r in rows:
                joined = f"gx_{p.op}({joined}, taken{p.node}{r})"
            to = f"float* const to = a{p.node} + (c - c0 + k);"
            loop.append(f"{{ {to} gx_write(to, {joined}, gx_all{{}}); }}")
        return [
            *lines,
            f"for (gx_int c = c0; c < c1; c += {_BLOCK}) {{",
            f"  const gx_int size = gx_least({_BLOCK}, c1 - c);",
            *(f"  {line}" for part in every for line in part.declare()),
            *_indent(in_vectors(loop)),
            *(f"  {line}" for part in every for line in part.finish()),
            "}",
            *(self._store_row(part, r) for r in rows for part in sums[r]),
        ]

    def _rows(self, count: int) -> list[str]:
        """The rows from ``i``; names of what belongs to one of them end with its number."""
        graph, rows = self.places.graph, [f"_{r}" for r in range(count)]
        sums = {
            r: [Accumulator(graph, i, f"total{i}{r}", r) for i in self.row_reductions] for r in rows
        }
        totals = {r: [Accumulator(graph, p.node, p.total, r) for p in self.totals] for r in rows}
        inner = {r: [*totals[r], *sums[r]] for r in rows}
        every = [part for r in rows for part in inner[r]]
        lines = []
        for k, r in enumerate(rows):
            lines.append(f"const gx_int i{r} = i + {k};")
            lines += [f"double {part.total} = {part.start};" for part in sums[r]]
            lines += [self._load(a, f"i{r}", r) for a in self._of_form("row")]
        block = [line for r in rows for line in self._flags(r)]
        block += self.arrays.before("i * b + c")
        block += [line for part in every for line in part.declare()]
        block.append(f"#pragma omp simd {' '.join(part.clauses() for part in every)}")
        loop = [self._load(a, "c + k") for a in self._of_form("column")]
        for r in rows:
            loop += [f"{part.kind} taken{part.node}{r};" for part in self.columns]
            loop += ["{", *_indent(self._element(r, inner[r])), "}"]
        for part in self.columns:
            loop += [self._column_step(part, r) for r in rows]
        block += ["for (gx_int k = 0; k < size; ++k) {", *_indent(loop), "}"]
        block += [line for part in every for line in part.finish()]
        for r in rows:
            block += [f"gx_pack({self._bits(t, r)}, flags{i}{r}, size);" for t, i in self.packed]
        return [
            *lines,
            f"for (gx_int c = c0; c < c1; c += {_BLOCK}) {{",
            "  const auto block = [&](const auto size) __attribute__((always_inline)) {",
            *(f"    {line}" for line in block),
            "  };",
            # A block of known size is several times faster to loop over.
            f"  if (c + {_BLOCK} <= c1) block(gx_size<{_BLOCK}>()); else block(c1 - c);",
            "}",
            *(self._store_row(part, r) for r in rows for part in sums[r]),
        ]

    def _element(self, row: str, parts: list[Accumulator]) -> list[str]:
        graph = self.places.graph
        taken = [
            f"taken{p.node}{row} = {operand(graph, self.nodes[p.node].args[0], p.kind, True)};"
            for p in self.columns
        ]
        kinds = [(c_type(self.nodes[a].dtype, True), name(a)) for a in self._of_form("row")]
        return [
            *(f"const {kind} {x} = {x}{row};" for kind, x in kinds),
            *body(self.places, self.stage, f"i{row} * b + c + k", self.arrays, row),
            *(line for part in parts for line in part.step()),
            *taken,
        ]

    def _flags(self, row: str) -> list[str]:
        lines = []
        for i in self.unpacked:
            lines.append(f"int flags{i}{row}[{_BLOCK}];")
            lines.append(f"gx_unpack({self._bits(self.nodes[i].value, row)}, flags{i}{row}, size);")
        return [*lines, *(f"int flags{i}{row}[{_BLOCK}];" for _, i in self.packed)]

    def _bits(self, where: Input, row: str) -> str:
        return f"p_{label(where)} + i{row} * ((b + 7) / 8) + c / 8"

    def _column_step(self, part: Accumulator, row: str) -> str:
        a = f"a{part.node}[c - c0 + k]"
        return f"{a} = {self.places.join(part.node)}::join({a}, taken{part.node}{row});"

    def _store_row(self, part: Accumulator, row: str) -> str:
        kind = self.places.vector_type(part.node)
        y = f"({self.places.vector_of(part.node)})[piece * a + i{row}]"
        return f"{y} = ({kind}){part.total};"

    # -- sums of a tile ------------------------------------------------------------------------

    def _column_totals(self) -> list[str]:
        """Sums over the tile, and over a few rows in the element's type."""
        sizes = [WIDTH + _STAGGER * (j + 1) for j in range(len(self.columns))]
        return [
            *(f"double {part.total}[{WIDTH}];" for part in self.columns),
            *(
                f"alignas(64) {p.kind} a{p.node}[{size}];"
                for p, size in zip(self.columns, sizes, strict=True)
            ),
            *_each_column([f"{part.total}[k] = {part.start};" for part in self.columns]),
        ]

    def _clear_columns(self) -> list[str]:
        parts = self.columns
        return _each_column([f"a{p.node}[k] = ({p.kind}){p.start};" for p in parts])

    def _fold_columns(self) -> list[str]:
        lines = []
        for part in self.columns:
            join = f"{self.places.join(part.node)}::join"
            lines.append(f"{part.total}[k] = {join}({part.total}[k], (double)a{part.node}[k]);")
        return _each_column(lines)

    def _store_columns(self) -> list[str]:
        lines = []
        for part in self.columns:
            kind = self.places.vector_type(part.node)
            lines += [
                f"{{ {kind}* const y = {self.places.vector_of(part.node)} + stripe * b + c0;",
                f"  for (gx_int k = 0; k < c1 - c0; ++k) y[k] = ({kind}){part.total}[k]; }}",
            ]
        return lines


def _indent(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _each_column(lines: list[str]) -> list[str]:
    """A loop over the columns of the tile."""
    return ["for (gx_int k = 0; k < c1 - c0; ++k) {", *(f"  {x}" for x in lines), "}"] * bool(lines)


_TILE = [
    "const gx_int leaf = A->task_leaf[task], a = A->rows[leaf], b = A->columns[leaf];",
    "const gx_int high = A->tile_rows[leaf], wide = A->tile_columns[leaf];",
    "const gx_int tile = task - A->first_task[leaf], across = gx_pieces(b, wide);",
    "const gx_int stripe = tile / across, piece = tile % across;",
    "const gx_int r0 = stripe * high, r1 = gx_least(r0 + high, a);",
    "const gx_int c0 = piece * wide, c1 = gx_least(c0 + wide, b);",
]
