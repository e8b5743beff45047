"""C++ for what a leaf has few of: scalars, rows and columns, and their way into memory."""

from __future__ import annotations

from collections.abc import Iterable

from ..ir.expression import c_type, expression, name
from ..ir.graph import REDUCTIONS, SIZES, TREE_REDUCTIONS, Input
from ..ir.places import Places
from ..ir.stages import Group, Stage
from .prelude import STORAGE

_SIZE = {"row": "A->rows[leaf]", "column": "A->columns[leaf]"}
_PARTS = {
    "row": "gx_pieces(A->columns[leaf], A->tile_columns[leaf])",
    "column": "gx_pieces(A->rows[leaf], A->tile_rows[leaf])",
}
_FREE = ("const", *SIZES)


class Values:
    """Writes the function that computes the values of a stage for one leaf.

    Args:
        places: of the graph.
        stage: the stage.
        some: for rows ``from`` to ``to`` alone; all values are rows.
    """

    def __init__(self, places: Places, stage: Stage, some: bool = False) -> None:
        self.some = some
        self.places = places
        self.nodes = places.graph.nodes
        self.stage = stage
        self._known: set[int] = set()
        self._narrow: set[int] = set()
        self.lines: list[str] = []

    def write(self) -> list[str]:
        """The statements."""
        for group in self.stage.values:
            if group.form == "scalar":
                for i in group.nodes:
                    self._scalar(i)
            else:
                self._loop(group)
        return self.lines

    # -- scalars -----------------------------------------------------------------------------

    def _scalar(self, i: int) -> None:
        node = self.nodes[i]
        if node.op in _FREE:
            return
        kind = c_type(node.dtype, False)
        self.lines.append(f"const {kind} {name(i)} = {self._value(i, kind)};")
        self._known.add(i)
        if i in self.places.slot:
            self.lines.append(f"{self.places.slot_of(i)} = {name(i)};")

    def _value(self, i: int, kind: str) -> str:
        node, places = self.nodes[i], self.places
        if node.op == "input":
            return self._input(node.value, node.dtype)
        if node.op in TREE_REDUCTIONS:
            return f"({kind})A->tree_in[{places.tree[i]}]"
        if i in places.joined:
            return f"({kind})*({places.joined_of(i)})"
        if node.op in REDUCTIONS:
            join, source = places.join(i), node.args[0]
            if not self.nodes[source].element:
                size = _SIZE[self.nodes[source].form]
                return f"({kind})gx_total<{join}>({self._vector(source)}, {size})"
            own = f"A->partial + {places.partial[i]} * A->tasks + A->first_task[leaf]"
            return f"({kind})gx_total<{join}>({own}, A->first_task[leaf + 1] - A->first_task[leaf])"
        self._scalars_of(node.args)
        return expression(places.graph, i)

    def _input(self, where: Input, dtype: str) -> str:
        if where.kind == "hyper":
            return f"A->hyper[A->hyper_row[leaf] * A->hypers + {where.index}]"
        value = f"*(const {STORAGE[dtype]}*){self.places.address(where)}"
        return f"gx_load({value})" if dtype in ("bfloat16", "float16") else value

    def _scalars_of(self, nodes: Iterable[int]) -> None:
        """Make scalars of earlier stages local."""
        for a in nodes:
            if not self.nodes[a].many and self.nodes[a].op != "const" and a not in self._known:
                self.lines.append(self.places.declare(a))
                self._known.add(a)

    # -- vectors -----------------------------------------------------------------------------

    def _vector(self, i: int) -> str:
        """Where the values of a vector begin."""
        if i in self.places.vector:
            return self.places.vector_of(i)
        return self._tensor(i)

    def _tensor(self, i: int) -> str:
        """Where an input begins."""
        node = self.nodes[i]
        return f"(const {STORAGE[node.dtype]}*){self.places.address(node.value)}"

    def _loop(self, group: Group) -> None:
        """Compute vectors of one form, entry by entry."""
        nodes, places = self.nodes, self.places
        size = _SIZE[group.form]
        before, outside, body = [], [], []
        for i in group.nodes:
            kind, value = places.vector_type(i), f"gx_load(x{i}[k])"
            if places.graph.of_elements(i):
                x = f"{places.vector_of(i)}, {_PARTS[group.form]}, {size}"
                gather = f"gx_gather<{places.join(i)}>({x});"
                if i in places.joined:
                    gather = f"gx_take({places.vector_of(i)}, {places.joined_of(i)}, {size});"
                before.append(f"if ({_PARTS[group.form]} > 1) {gather}" if self.some else gather)
                outside.append(i)
            elif nodes[i].op == "input":
                before.append(f"const auto* const x{i} = {self._tensor(i)};")
            else:
                outside += [a for a in nodes[i].args if nodes[a].many and a not in group.nodes]
                self._uniforms(nodes[i].args)
                value = expression(places.graph, i)
            body.append(f"const {kind} {name(i)} = {value};")
            if i in places.vector and not places.graph.of_elements(i):
                before.append(f"{kind}* const y{i} = {places.vector_of(i)};")
                body.append(f"y{i}[k] = {name(i)};")
        loads = []
        for a in dict.fromkeys(outside):
            before.append(f"const auto* const x{a} = {self._vector(a)};")
            if a not in group.nodes:
                kind = places.vector_type(a)
                loads.append(f"const {kind} {name(a)} = gx_load(x{a}[k]);")
        first, stop = ("from", "to") if self.some else ("0", size)
        loop = ["#pragma omp simd", f"for (gx_int k = {first}; k < {stop}; ++k) {{"]
        loop += [f"  {line}" for line in (*loads, *body)] + ["}"]
        if not any(i in places.vector and not places.graph.of_elements(i) for i in group.nodes):
            loop = []  # nothing is kept but what is gathered
        self.lines += ["{", *(f"  {line}" for line in (*before, *loop)), "}"]

    def _uniforms(self, args: Iterable[int]) -> None:
        scalars = [a for a in args if not self.nodes[a].many and self.nodes[a].op != "const"]
        self._scalars_of(scalars)
        for a in scalars:
            narrow = self.places.narrow(a)
            if narrow and a not in self._narrow:
                self.lines.append(narrow)
                self._narrow.add(a)


def commit(places: Places, target: Input, i: int) -> list[str]:
    """Statements that write an output that is no elements."""
    node = places.graph.nodes[i]
    kind = STORAGE[node.dtype]
    to, value = f"({kind}*){places.address(target)}", places.stored(i) if not node.many else "x[k]"
    if not node.many:
        if node.dtype in ("bfloat16", "float16"):
            return [f"gx_store({to}, (float){value});"]
        return [f"*{to} = ({kind}){value};"]
    store = f"y[k] = ({kind})x[k];"
    if node.dtype in ("bfloat16", "float16", "float32", "float64"):
        store = "gx_store(y + k, x[k]);"
    return [
        f"{{ {kind}* const y = {to};",
        f"  const auto* const x = {places.vector_of(i)};",
        f"  for (gx_int k = 0; k < {_SIZE[node.form]}; ++k) {store} }}",
    ]


def leave(places: Places, i: int) -> list[str]:
    """Statements that leave a leaf's own part of what is combined over processes."""
    node, join, to = places.graph.nodes[i], places.join(i), places.joined_of(i)
    source = places.graph.nodes[node.args[0]]
    if node.form == "column":
        x = f"{places.vector_of(i)}, {_PARTS['column']}, {_SIZE['column']}"
        return [f"gx_leave<{join}>({to}, {x});"]
    if source.element:
        own = f"A->partial + {places.partial[i]} * A->tasks + A->first_task[leaf]"
        total = f"gx_total<{join}>({own}, A->first_task[leaf + 1] - A->first_task[leaf])"
    else:
        a = node.args[0]
        kept = a in places.vector
        x = (
            places.vector_of(a)
            if kept
            else f"(const {STORAGE[source.dtype]}*){places.address(source.value)}"
        )
        total = f"gx_total<{join}>({x}, {_SIZE['row']})"
    return [f"*({to}) = {total};"]
