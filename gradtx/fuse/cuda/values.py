"""CUDA C++ for what a leaf has few of: scalars, rows and columns, and their way into memory.

Every group of values is a kernel of its own: scalars have a thread per leaf, or a block where they
join many values; rows and columns have a block for every ``ENTRIES`` entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..ir.expression import c_type, expression, name
from ..ir.graph import FLOATS, REDUCTIONS, SIZES, TREE_REDUCTIONS, Input
from ..ir.places import Places
from .matrix import vector
from .prelude import STORAGE

_SIZE = {"row": "A->rows[leaf]", "column": "A->columns[leaf]"}
_PARTS = {
    "row": "gx_pieces(A->columns[leaf], GX_WIDTH)",
    "column": "gx_pieces(A->rows[leaf], A->tile_rows[leaf])",
}
_FREE = ("const", *SIZES)


class Scalars:
    """The statements that compute scalars of one leaf.

    Attributes:
        lines: the statements.
        joins: whether they need all threads of a block.
    """

    def __init__(self, places: Places, group: Sequence[int]) -> None:
        self.places = places
        self.nodes = places.graph.nodes
        computed = [i for i in group if self.nodes[i].op not in _FREE]
        self.joins = any(self.nodes[i].op in REDUCTIONS for i in computed)
        self.lines: list[str] = []
        self._known: set[int] = set()
        for i in computed:
            self._add(i)

    def _add(self, i: int) -> None:
        kind = c_type(self.nodes[i].dtype, False)
        value = self._value(i, kind)
        self.lines.append(f"const {kind} {name(i)} = {value};")
        self._known.add(i)
        if i in self.places.slot:
            self.lines.append(f"{self.places.slot_of(i)} = {name(i)};")

    def _value(self, i: int, kind: str) -> str:
        node, places = self.nodes[i], self.places
        if node.op == "input":
            return self._input(node.value, node.dtype)
        if node.op in TREE_REDUCTIONS:
            join = "gx_plus" if node.op == "tree_sum" else "gx_larger"
            return f"({kind})gx_total<{join}>(A, {places.tree[i]})"
        if node.op not in REDUCTIONS:
            for a in dict.fromkeys(node.args):
                if a not in self._known and self.nodes[a].op != "const":
                    self.lines.append(places.declare(a))
                    self._known.add(a)
            return expression(places.graph, i)
        join, source = places.join(i), node.args[0]
        if self.nodes[source].element:
            base = f"A->partial + {places.partial[i]} * A->tasks"
            span = "A->first_task[leaf], A->first_task[leaf + 1]"
        else:
            base, span = vector(places, source), f"0, {_SIZE[self.nodes[source].form]}"
        return f"({kind})gx_gather<{join}>({base}, {span})"

    def _input(self, where: Input, dtype: str) -> str:
        if where.kind == "hyper":
            return f"gx_value(A->hyper[A->hyper_row[leaf] * A->hypers + {where.index}])"
        return f"gx_load(*(const {STORAGE[dtype][0]}*){self.places.address(where)})"


def vectors(places: Places, nodes: Sequence[int]) -> list[str]:
    """The statements that compute rows and columns; none where all of them stand in memory."""
    rows = _entries(places, [i for i in nodes if places.graph.nodes[i].form == "row"])
    columns = _entries(places, [i for i in nodes if places.graph.nodes[i].form == "column"])
    return _rows_or_columns(rows, columns)


def _entries(places: Places, group: Sequence[int]) -> list[str]:
    """Compute entry ``k`` of vectors of one form."""
    nodes, graph = places.graph.nodes, places.graph
    gathered = [i for i in group if graph.of_elements(i)]
    lines, body = [], []
    known = set(gathered)
    for i in gathered:
        y = places.vector_of(i)
        parts = _PARTS[nodes[i].form]
        value = f"gx_entry<{places.join(i)}>({y}, {parts}, n, k)"
        lines.append(f"const {places.vector_type(i)} {name(i)} = {value};")
        body.append(f"({y})[k] = {name(i)};")

    def load(i: int, start: str) -> str:
        known.add(i)
        return f"const {places.vector_type(i)} {name(i)} = gx_load(({start})[k]);"

    for i in group:
        if i in gathered:
            continue
        if nodes[i].op == "input":
            where = f"(const {STORAGE[nodes[i].dtype][0]}*){places.address(nodes[i].value)}"
            body.append(load(i, where))
        else:
            body += [load(a, vector(places, a)) for a in _missing(places, i, known, True)]
            for a in _missing(places, i, known, False):
                known.add(a)
                body += [line for line in (places.declare(a), places.narrow(a)) if line]
            body.append(f"const {places.vector_type(i)} {name(i)} = {expression(graph, i)};")
            known.add(i)
        if i in places.vector:
            body.append(f"({places.vector_of(i)})[k] = {name(i)};")
    if not any(i in places.vector for i in group):
        return []
    return [*lines, "if (threadIdx.x < GX_ENTRIES && k < n) {", *(f"  {x}" for x in body), "}"]


def _missing(places: Places, i: int, known: set[int], many: bool) -> list[int]:
    """Arguments that are no variables yet."""
    nodes = places.graph.nodes
    wanted = (a for a in nodes[i].args if a not in known and nodes[a].op != "const")
    return [a for a in dict.fromkeys(wanted) if nodes[a].many == many]


def _rows_or_columns(rows: list[str], columns: list[str]) -> list[str]:
    """The block's entries, of which all are of rows or all of columns."""
    if not rows and not columns:
        return []
    return [
        "const gx_int leaf = A->chunk_leaf[blockIdx.x];",
        "const gx_int chunk = blockIdx.x - A->first_chunk[leaf];",
        "const gx_int of_rows = gx_pieces(A->rows[leaf], GX_ENTRIES);",
        "if (chunk < of_rows) {",
        "  const gx_int n = A->rows[leaf], k = chunk * GX_ENTRIES + gx_lane();",
        *(f"  {line}" for line in rows),
        "} else {",
        "  const gx_int n = A->columns[leaf], k = (chunk - of_rows) * GX_ENTRIES + gx_lane();",
        *(f"  {line}" for line in columns),
        "}",
    ]


def commit_scalars(places: Places, outputs: Iterable[tuple[Input, int]]) -> list[str]:
    """Write outputs that are scalars."""
    lines = []
    for target, i in outputs:
        dtype = places.graph.nodes[i].dtype
        pointer = f"({STORAGE[dtype][0]}*){places.address(target)}"
        lines.append(_store(dtype, pointer, places.stored(i)))
    return lines


def commit_vectors(places: Places, outputs: Iterable[tuple[Input, int]]) -> list[str]:
    """Write outputs that are rows or columns."""
    lines: dict[str, list[str]] = {"row": [], "column": []}
    for target, i in outputs:
        node = places.graph.nodes[i]
        pointer = f"({STORAGE[node.dtype][0]}*){places.address(target)} + k"
        value = f"({places.vector_of(i)})[k]"
        guarded = f"if (threadIdx.x < GX_ENTRIES && k < n) {_store(node.dtype, pointer, value)}"
        lines[node.form].append(guarded)
    return _rows_or_columns(lines["row"], lines["column"])


def _store(dtype: str, pointer: str, value: str) -> str:
    if dtype not in FLOATS:
        return f"*({pointer}) = ({STORAGE[dtype][0]}){value};"
    wide = "double" if dtype == "float64" else "float"
    return f"gx_store({pointer}, ({wide}){value});"
