"""Cut a graph into stages at reductions.

A stage first computes scalars, one set per leaf, then runs over elements. A reduction's result is
a scalar of the next stage; so is a value combined over all leaves of the tree. Every elementwise
value is computed anew in each stage that needs it; only the last stage writes, so an update reads
and writes memory as seldom as it can and nothing is half-written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .graph import REDUCTIONS, TREE_REDUCTIONS, Graph, Input


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        scalars: scalar nodes to compute, in order.
        elements: elementwise nodes to compute, in order.
        reductions: reduction nodes that this stage's pass accumulates.
        tree: tree reductions of scalars that are known after this stage.
        writes: elementwise outputs, target and node.
    """

    scalars: tuple[int, ...]
    elements: tuple[int, ...]
    reductions: tuple[int, ...]
    tree: tuple[int, ...]
    writes: tuple[tuple[Input, int], ...]


@dataclass(frozen=True)
class Schedule:
    """All stages, and the scalar outputs that are written after the last one.

    Attributes:
        stages: in order.
        commits: scalar outputs, target and node.
        slots: scalar nodes that are kept in memory, in storage order.
    """

    graph: Graph
    stages: tuple[Stage, ...]
    commits: tuple[tuple[Input, int], ...]
    slots: tuple[int, ...]

    def tree_keys(self) -> list[tuple[int, int]]:
        """Tree reductions as (stage, node)."""
        return [(s, n) for s, stage in enumerate(self.stages) for n in stage.tree]

    def bytes_moved(self, size: dict[Input, int]) -> int:
        """Bytes read and written per element over all stages."""
        total = 0
        for stage in self.stages:
            reads = {self.graph.nodes[i].value for i in stage.elements if self._is_load(i)}
            total += sum(size[r] for r in reads) + sum(size[t] for t, _ in stage.writes)
        return total

    def _is_load(self, i: int) -> bool:
        return self.graph.nodes[i].op == "input"


def align(graphs: Iterable[Graph]) -> dict[Any, int]:
    """The stage after which every tree reduction is known to all graphs that take part in it."""
    stage: dict[Any, int] = {}
    while True:
        before = dict(stage)
        for graph in graphs:
            for node, level in zip(graph.nodes, _levels(graph, stage), strict=True):
                if node.op in TREE_REDUCTIONS:
                    stage[node.value] = max(stage.get(node.value, 0), level - 1)
        if stage == before:
            return stage


def _levels(graph: Graph, tree_stage: Mapping[Any, int]) -> list[int]:
    """The stage in which every node can be computed first."""
    level: list[int] = []
    for node in graph.nodes:
        at = max((level[a] for a in node.args), default=0)
        if node.op in TREE_REDUCTIONS:
            at = max(at, tree_stage.get(node.value, 0))
        level.append(at + 1 if node.op in REDUCTIONS + TREE_REDUCTIONS else at)
    return level


def schedule(graph: Graph, tree_stage: Mapping[Any, int]) -> Schedule:
    """The stages of a graph.

    Args:
        graph: of one kind of leaf.
        tree_stage: what ``align`` says for all graphs that run together.
    """
    nodes = graph.nodes
    level = _levels(graph, tree_stage)
    writes = tuple(o for o in graph.outputs if nodes[o[1]].element)
    commits = tuple(o for o in graph.outputs if o not in writes)
    trees = [i for i, n in enumerate(nodes) if n.op in TREE_REDUCTIONS]
    last = max([level[i] for _, i in graph.outputs] + [level[i] - 1 for i in trees], default=0)
    stages = []
    for s in range(last + 1):
        reductions = tuple(
            i for i, n in enumerate(nodes) if n.op in REDUCTIONS and level[n.args[0]] == s
        )
        roots = [nodes[i].args[0] for i in reductions]
        if s == last:
            roots += [i for _, i in writes]
        stages.append(
            Stage(
                tuple(i for i, n in enumerate(nodes) if not n.element and level[i] == s),
                _elements(graph, roots),
                reductions,
                tuple(i for i in trees if level[i] == s + 1),
                writes if s == last else (),
            )
        )
    slots = tuple(sorted(_kept(graph, level, stages, commits)))
    return Schedule(graph, tuple(stages), commits, slots)


def _kept(
    graph: Graph, level: list[int], stages: list[Stage], commits: tuple[tuple[Input, int], ...]
) -> set[int]:
    """Scalars that are used outside the stage's own scalar part."""
    kept = {i for _, i in commits}
    for s, stage in enumerate(stages):
        for i in (*stage.scalars, *stage.elements):
            args = graph.nodes[i].args
            kept.update(a for a in args if graph.nodes[i].element or level[a] < s)
        kept.update(graph.nodes[i].args[0] for i in stage.tree)
    return {
        i
        for i in kept
        if not graph.nodes[i].element and graph.nodes[i].op not in ("const", "numel")
    }


def _elements(graph: Graph, roots: list[int]) -> tuple[int, ...]:
    """Elementwise nodes that the roots need, in order."""
    seen: set[int] = set()
    todo = [i for i in roots if graph.nodes[i].element]
    while todo:
        i = todo.pop()
        if i not in seen:
            seen.add(i)
            todo.extend(a for a in graph.nodes[i].args if graph.nodes[a].element)
    return tuple(sorted(seen))
