"""Norms of a gradient times a factor, from the gradient's own: one pass over its elements less."""

from __future__ import annotations

from dataclasses import replace

from .graph import Graph, Input, Node, simplify

_GRAD = Input("grad")


def with_squares(graph: Graph, form: str) -> Graph:
    """The graph with the gradient's squared norms as an input where that saves a reduction.

    The sum of (f g)^2 over all elements is that of f^2 |g|^2 over rows, or columns, if f is one
    number for each of them or for all. It is taken in float64, which holds f^2 and |g|^2.

    Args:
        graph: of leaves of two dimensions.
        form: "row" or "column", of what there are norms.
    """
    if graph.view not in (None, 1) or any(n.each is not None for n in graph.nodes):
        return graph
    nodes: list[Node] = []
    place: list[int] = []

    def add(node: Node) -> int:
        nodes.append(node)
        return len(nodes) - 1

    for i, node in enumerate(graph.nodes):
        weights = _weights(graph, i, form)
        if weights is None:
            place.append(add(replace(node, args=tuple(place[a] for a in node.args))))
            continue
        terms = add(Node("input", (), "float64", form, Input("squares"), node.member))
        for weight in weights:
            own = graph.nodes[weight].form
            wide = add(Node("cast", (place[weight],), "float64", own, None, node.member))
            for _ in range(2):
                terms = add(Node("mul", (terms, wide), "float64", form, None, node.member))
        place.append(add(replace(node, args=(terms,))))
    if len(nodes) == len(graph.nodes):
        return graph
    outputs = tuple((target, place[i]) for target, i in graph.outputs)
    return simplify(Graph(tuple(nodes), outputs, 1))


def _weights(graph: Graph, i: int, form: str) -> list[int] | None:
    """What a gradient is multiplied with in a sum of squares; None: the node is something else."""
    node = graph.nodes[i]
    if node.op != "leaf_sum":
        return None
    square = graph.nodes[node.args[0]]
    if square.op != "mul" or square.args[0] != square.args[1]:
        return None
    return _factors(graph, square.args[0], form)


def _factors(graph: Graph, i: int, form: str) -> list[int] | None:
    node = graph.nodes[i]
    if node.op == "input" and node.value == _GRAD:
        return []
    if node.op == "neg":
        return _factors(graph, node.args[0], form)
    if node.op == "mul":
        for x, factor in (node.args, node.args[::-1]):
            if graph.nodes[factor].form in ("scalar", form):
                found = _factors(graph, x, form)
                return None if found is None else [*found, factor]
    return None
