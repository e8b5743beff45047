"""The intermediate form of one leaf's update: a small printable graph, the same for every back end.

A node has a *form*: ``element`` (one value per element of the leaf), ``scalar`` (one per leaf, such
as a step count, a learning rate or the result of a reduction), and where the leaf is seen as a
matrix ``row`` and ``column`` (one value per row or column) and ``bits`` (one bit per element, every
row packed into bytes). ``every 256`` is one value for every 256 elements of the flat leaf, the last
ones may be fewer; ``slice 11`` is one for every eleventh, beginning with the first. Sizes do not
occur: they are the nodes ``numel``, ``rows``, ``columns``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .view import Rule

REDUCTIONS = (
    *("leaf_sum", "leaf_max", "leaf_min"),
    *("row_sum", "row_max", "row_min"),
    *("column_sum", "column_max", "column_min"),
)
SIZES = ("numel", "rows", "columns")
VECTORS = ("row", "column")
TREE_REDUCTIONS = ("tree_sum", "tree_max")
MOST = 8192  # elements of a block, at most: blocks lie on the stack
BLOCKS = ("block_codes", "block_scale", "block_decode", "random16", "round_stochastic")
FLOATS = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Input:
    """Where a value comes from or goes to.

    Attributes:
        kind: "grad", "update", "factor" (of the gradient, in place of the update), "squares"
            (squared norms of the gradient's rows or columns), "param", "state" (of this leaf),
            "shared" (of all leaves), "hyper".
        index: position among the state tensors.
        name: full name of a hyperparameter, or key of an extra argument; of a state tensor that is
            a pair of numbers, "0" or "1".
    """

    kind: str
    index: int = 0
    name: str = ""

    def __str__(self) -> str:
        if self.kind in _SINGLE:
            return self.kind
        place = f"{self.index}.{self.name}" if self.kind == "state" and self.name else self.index
        return f"{self.kind}.{place if self.kind != 'hyper' else self.name}"


_SINGLE = ("grad", "update", "param")


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: its name; "input", "const" and the sizes have no arguments.
        args: positions of the arguments.
        dtype: dtype of the result, by torch's name.
        form: "scalar", "row", "column", "element", "bits", "every n" or "slice n".
        value: the number of a const, the ``Input``, the dtype in which a comparison is made, the
            key of a reduction over the tree, or bits, block size and signedness of codes.
        member: the chain member it belongs to; no part of the identity.
    """

    op: str
    args: tuple[int, ...]
    dtype: str
    form: str
    value: Any = None
    member: str = field(default="", compare=False)

    @property
    def element(self) -> bool:
        """Whether passes over elements read, compute or write it."""
        return self.form in ("element", "bits") or self.each is not None

    @property
    def each(self) -> int | None:
        """For so many elements there is one value; None in other forms."""
        return self.block or self.step

    @property
    def block(self) -> int | None:
        """The elements of a block that has one value; None in other forms."""
        return int(self.form[6:]) if self.form.startswith("every ") else None

    @property
    def step(self) -> int | None:
        """The distance of the elements of a slice; None in other forms."""
        return int(self.form[6:]) if self.form.startswith("slice ") else None

    @property
    def many(self) -> bool:
        """Whether there are several values per leaf, computed in loops."""
        return self.form != "scalar"


@dataclass(frozen=True)
class Graph:
    """Nodes in order of evaluation, and what is written where.

    Attributes:
        nodes: in order.
        outputs: target and node.
        view: how a leaf is seen as a matrix, see ``view.matrix``; None: as a flat array.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[tuple[Input, int], ...]
    view: Rule | None = None

    def __str__(self) -> str:
        lines = []
        for i, n in enumerate(self.nodes):
            value = "" if n.value is None else f" [{n.value}]"
            args = ", ".join(f"%{a}" for a in n.args)
            lines.append(f"%{i} = {n.op}({args}){value} : {n.form} {n.dtype}")
        lines.extend(f"{target} <- %{i}" for target, i in self.outputs)
        return "\n".join(lines)

    def inputs(self) -> list[Input]:
        """Everything that is read."""
        return [n.value for n in self.nodes if n.op == "input"]

    def only(self, keep: Iterable[str]) -> Graph:
        """The part that computes the outputs of some kinds."""
        kinds = set(keep)
        outputs = tuple(o for o in self.outputs if o[0].kind in kinds)
        return simplify(replace(self, outputs=outputs))

    def form_of(self, target: Input) -> str:
        """The form of an output."""
        return next(self.nodes[i].form for where, i in self.outputs if where == target)

    @property
    def ordered(self) -> bool:
        """Whether it matters which element comes where."""
        return self.view is not None or any(
            n.each is not None or n.op == "random16" for n in self.nodes
        )

    def blocks(self) -> dict[Input, int]:
        """State tensors with one value for so many elements, and for how many."""
        read = [(n.value, n.each) for n in self.nodes if n.op == "input"]
        written = [(target, self.nodes[i].each) for target, i in self.outputs]
        return {where: each for where, each in (*read, *written) if each is not None}

    def of_elements(self, i: int) -> bool:
        """Whether a node combines elements of the leaf: its value is known after a pass."""
        node = self.nodes[i]
        return node.op in REDUCTIONS and self.nodes[node.args[0]].element

    def joins(self, i: int) -> bool:
        """Whether a node combines what several processes have, each some rows of the leaf."""
        node = self.nodes[i]
        if node.op not in REDUCTIONS:
            return False
        source = self.nodes[node.args[0]]
        return source.form == "row" or (source.element and node.form != "row")


def simplify(graph: Graph) -> Graph:
    """The same results without what is unused, repeated, or cheaper otherwise.

    An element divided by a scalar becomes a product with the scalar's reciprocal, taken in double.
    """
    nodes: list[Node] = []
    known: dict[Node, int] = {}
    place: dict[int, int] = {}

    def add(node: Node) -> int:
        if node not in known:
            known[node] = len(nodes)
            nodes.append(node)
        return known[node]

    for i in needed(graph.nodes, _roots(graph.nodes, graph.outputs)):
        node = graph.nodes[i]
        args = tuple(place[a] for a in node.args)
        node = replace(node, args=args)
        if node.op == "cast" and nodes[args[0]].dtype == node.dtype:
            place[i] = args[0]
        elif _divides_by_scalar(node, nodes):
            inverse = Node("reciprocal", (args[1],), "float64", "scalar", None, node.member)
            place[i] = add(replace(node, op="mul", args=(args[0], add(inverse))))
        else:
            place[i] = add(node)
    outputs = tuple((target, place[n]) for target, n in graph.outputs)
    kept = needed(nodes, _roots(nodes, outputs))
    again = {old: new for new, old in enumerate(kept)}
    renumbered = [replace(nodes[i], args=tuple(again[a] for a in nodes[i].args)) for i in kept]
    uses_view = any(n.form in (*VECTORS, "bits") or n.op in SIZES[1:] for n in renumbered)
    return Graph(
        tuple(renumbered),
        tuple((target, again[n]) for target, n in outputs),
        graph.view if uses_view else None,
    )


def _roots(nodes: Sequence[Node], outputs: Iterable[tuple[Input, int]]) -> list[int]:
    """Outputs, and what this leaf contributes to the rest of the tree."""
    marks = [i for i, n in enumerate(nodes) if n.op in TREE_REDUCTIONS]
    return [i for _, i in outputs] + marks


def _divides_by_scalar(node: Node, nodes: Sequence[Node]) -> bool:
    if node.op != "div" or not node.element or node.dtype != "float32":
        return False
    numerator, denominator = (nodes[a] for a in node.args)
    return numerator.element and not denominator.many


def needed(nodes: Sequence[Node], roots: Iterable[int]) -> list[int]:
    """Positions that the roots depend on, in order."""
    seen: set[int] = set()
    todo = list(roots)
    while todo:
        i = todo.pop()
        if i not in seen:
            seen.add(i)
            todo.extend(nodes[i].args)
    return sorted(seen)
