"""The intermediate form of one leaf's update: a small printable graph, the same for every back end.

A node is *elementwise* (one value per element of the leaf) or *scalar* (one value per leaf, such as
a step count, a learning rate or the result of a reduction). Sizes do not occur: the number of
elements is the node ``numel``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

REDUCTIONS = ("leaf_sum", "leaf_max", "leaf_min")
TREE_REDUCTIONS = ("tree_sum", "tree_max")
FLOATS = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Input:
    """Where a value comes from or goes to.

    Attributes:
        kind: "grad", "update", "param", "state" (of this leaf), "shared" (of all leaves), "hyper".
        index: position among the state tensors.
        name: full name of a hyperparameter, or key of an extra argument.
    """

    kind: str
    index: int = 0
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}.{self.name or self.index}" if self.kind not in _SINGLE else self.kind


_SINGLE = ("grad", "update", "param")


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: its name; "input", "const" and "numel" have no arguments.
        args: positions of the arguments.
        dtype: dtype of the result, by torch's name.
        element: whether there is one value per element.
        value: the number of a const, the ``Input``, the dtype in which a comparison is made, or the
            key of a reduction over the tree.
        member: the chain member it belongs to; no part of the identity.
    """

    op: str
    args: tuple[int, ...]
    dtype: str
    element: bool
    value: Any = None
    member: str = field(default="", compare=False)


@dataclass(frozen=True)
class Graph:
    """Nodes in order of evaluation, and what is written where."""

    nodes: tuple[Node, ...]
    outputs: tuple[tuple[Input, int], ...]

    def __str__(self) -> str:
        lines = []
        for i, n in enumerate(self.nodes):
            value = "" if n.value is None else f" [{n.value}]"
            args = ", ".join(f"%{a}" for a in n.args)
            shape = "leaf" if n.element else "scalar"
            lines.append(f"%{i} = {n.op}({args}){value} : {shape} {n.dtype}")
        lines.extend(f"{target} <- %{i}" for target, i in self.outputs)
        return "\n".join(lines)

    def inputs(self) -> list[Input]:
        """Everything that is read."""
        return [n.value for n in self.nodes if n.op == "input"]

    def only(self, keep: Iterable[str]) -> Graph:
        """The part that computes the outputs of some kinds."""
        kinds = set(keep)
        return simplify(Graph(self.nodes, tuple(o for o in self.outputs if o[0].kind in kinds)))


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

    for i in _needed(graph.nodes, _roots(graph.nodes, graph.outputs)):
        node = graph.nodes[i]
        args = tuple(place[a] for a in node.args)
        node = Node(node.op, args, node.dtype, node.element, node.value, node.member)
        if node.op == "cast" and nodes[args[0]].dtype == node.dtype:
            place[i] = args[0]
        elif _divides_by_scalar(node, nodes):
            inverse = Node("reciprocal", (args[1],), "float64", False, None, node.member)
            place[i] = add(
                Node("mul", (args[0], add(inverse)), node.dtype, True, None, node.member)
            )
        else:
            place[i] = add(node)
    outputs = tuple((target, place[n]) for target, n in graph.outputs)
    kept = _needed(nodes, _roots(nodes, outputs))
    again = {old: new for new, old in enumerate(kept)}
    return Graph(
        tuple(_with_args(nodes[i], again) for i in kept),
        tuple((target, again[n]) for target, n in outputs),
    )


def _roots(nodes: Sequence[Node], outputs: Iterable[tuple[Input, int]]) -> list[int]:
    """Outputs, and what this leaf contributes to the rest of the tree."""
    marks = [i for i, n in enumerate(nodes) if n.op in TREE_REDUCTIONS]
    return [i for _, i in outputs] + marks


def _divides_by_scalar(node: Node, nodes: Sequence[Node]) -> bool:
    if node.op != "div" or not node.element or node.dtype != "float32":
        return False
    numerator, denominator = (nodes[a] for a in node.args)
    return numerator.element and not denominator.element


def _with_args(node: Node, place: Mapping[int, int]) -> Node:
    args = tuple(place[a] for a in node.args)
    return Node(node.op, args, node.dtype, node.element, node.value, node.member)


def _needed(nodes: Sequence[Node], roots: Iterable[int]) -> list[int]:
    """Positions that the roots depend on, in order."""
    seen: set[int] = set()
    todo = list(roots)
    while todo:
        i = todo.pop()
        if i not in seen:
            seen.add(i)
            todo.extend(nodes[i].args)
    return sorted(seen)
