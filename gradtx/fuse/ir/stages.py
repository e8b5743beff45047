"""Cut a graph into stages at reductions over elements.

A stage first computes scalars and vectors, one set per leaf, then runs over elements. What a
reduction over elements gives is a value of the next stage; so is a value combined over all leaves
of the tree, or over processes of which each has some rows of a leaf. Every elementwise value is
computed anew in each stage that needs it. The last pass over elements writes them, but for what an
earlier one can write so that the last need not read it; everything else is written at the very end:
an update reads and writes memory as seldom as it can.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .graph import SIZES, TREE_REDUCTIONS, VECTORS, Graph, Input, Node


@dataclass(frozen=True)
class Group:
    """Values of one form that are computed together, in order.

    Attributes:
        form: "scalar", or "row" or "column": one loop.
        nodes: what is computed.
    """

    form: str
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        values: scalars and vectors to compute first, in order.
        elements: elementwise nodes to compute, in order.
        reductions: reduction nodes that this stage's pass accumulates.
        tree: tree reductions of scalars that are known after this stage.
        writes: elementwise outputs, target and node.
        joined: what is combined over processes after this stage.
    """

    values: tuple[Group, ...]
    elements: tuple[int, ...]
    reductions: tuple[int, ...]
    tree: tuple[int, ...]
    writes: tuple[tuple[Input, int], ...]
    joined: tuple[int, ...] = ()

    @property
    def scalars(self) -> tuple[int, ...]:
        """The scalars among the values."""
        return tuple(i for group in self.values if group.form == "scalar" for i in group.nodes)

    def encoded(self, graph: Graph) -> dict[tuple[int, Any], dict[str, Input]]:
        """Where codes and scales go, by the node that is encoded and bits, block and signedness."""
        out: dict[tuple[int, Any], dict[str, Input]] = {}
        for target, i in self.writes:
            node = graph.nodes[i]
            if node.op in ("block_codes", "block_scale"):
                out.setdefault((node.args[0], node.value), {})[node.op] = target
        return out

    def slices(self, graph: Graph) -> dict[int, Stage]:
        """What is computed of slices, by their step: first the elements, then the slices."""
        nodes, out = graph.nodes, {}
        for step in dict.fromkeys(nodes[i].step for i in self.elements):
            if step is not None:
                own = tuple(i for i in self.elements if nodes[i].step == step)
                out[step] = Stage(
                    (),
                    tuple(sorted(_elements(graph, list(own)))),
                    tuple(i for i in self.reductions if nodes[nodes[i].args[0]].step == step),
                    (),
                    tuple(o for o in self.writes if nodes[o[1]].step == step),
                )
        return out

    def whole(self, graph: Graph) -> Stage:
        """What is computed of all elements."""
        nodes = graph.nodes
        reductions = tuple(i for i in self.reductions if nodes[nodes[i].args[0]].step is None)
        writes = tuple(o for o in self.writes if nodes[o[1]].step is None)
        roots = [nodes[i].args[0] for i in reductions] + [i for _, i in writes]
        return replace(self, elements=_elements(graph, roots), reductions=reductions, writes=writes)


@dataclass(frozen=True)
class StagePlan:
    """All stages, and the outputs that are written after the last one.

    Attributes:
        stages: in order.
        commits: outputs that are no elements, target and node.
        slots: scalar nodes that are kept in memory, in storage order.
        vectors: row and column nodes that are kept in memory, in storage order.
        shards: whether a process may have some rows of a leaf only.
    """

    graph: Graph
    stages: tuple[Stage, ...]
    commits: tuple[tuple[Input, int], ...]
    slots: tuple[int, ...]
    vectors: tuple[int, ...]
    shards: bool = False

    def joined(self) -> list[tuple[int, int]]:
        """What is combined over processes, as (stage, node)."""
        return [(s, n) for s, stage in enumerate(self.stages) for n in stage.joined]

    def tree_keys(self) -> list[tuple[int, int]]:
        """Tree reductions as (stage, node)."""
        return [(s, n) for s, stage in enumerate(self.stages) for n in stage.tree]

    def passes(self) -> int:
        """How often elements are gone over."""
        return sum(bool(stage.elements or stage.writes) for stage in self.stages)

    def by_row(self, s: int) -> bool:
        """Whether what stage ``s`` needs of the one before it is sums of the same rows alone."""
        if not 0 < s < len(self.stages):
            return False
        nodes, before, here = self.graph.nodes, self.stages[s - 1], self.stages[s]
        sums = (*before.reductions, *here.reductions)
        return (
            bool(before.reductions and (here.elements or here.writes))
            and all(nodes[i].form == "row" for i in before.reductions)
            and all(nodes[i].form != "column" for i in sums)
            and all(group.form == "row" for group in here.values)
            and not before.tree
            and not before.joined
            and not before.writes
        )

    def traffic(self) -> list[tuple[str, str]]:
        """Form and dtype of every array of a leaf that is read or written, once for each time."""
        nodes, out = self.graph.nodes, []
        for stage in self.stages:
            loads = {nodes[i].value: i for i in stage.elements if nodes[i].op == "input"}
            out += [*loads.values(), *(i for _, i in stage.writes)]
        out += [i for i, n in enumerate(nodes) if n.op == "input" and n.form in VECTORS]
        out += [i for _, i in self.commits if nodes[i].many]
        return [(nodes[i].form, nodes[i].dtype) for i in out]


def align(graphs: Iterable[Graph], shards: bool = False) -> dict[Any, int]:
    """The stage after which every tree reduction is known to all graphs that take part in it."""
    stage: dict[Any, int] = {}
    while True:
        before = dict(stage)
        for graph in graphs:
            for node, level in zip(graph.nodes, _levels(graph, stage, shards), strict=True):
                if node.op in TREE_REDUCTIONS:
                    stage[node.value] = max(stage.get(node.value, 0), level - 1)
        if stage == before:
            return stage


def _levels(graph: Graph, tree_stage: Mapping[Any, int], shards: bool) -> list[int]:
    """The stage in which every node can be computed first."""
    level: list[int] = []
    for i, node in enumerate(graph.nodes):
        at = max((level[a] for a in node.args), default=0)
        if node.op in TREE_REDUCTIONS:
            at = max(at, tree_stage.get(node.value, 0))
        later = node.op in TREE_REDUCTIONS or graph.of_elements(i) or (shards and graph.joins(i))
        level.append(at + 1 if later else at)
    return level


def plan_stages(
    graph: Graph, tree_stage: Mapping[Any, int], shards: bool = False, asks: bool = False
) -> StagePlan:
    """The stages of a graph.

    Args:
        graph: of one kind of leaf.
        tree_stage: what ``align`` says for all graphs that run together.
        shards: whether a process may have some rows of a leaf only.
        asks: whether processes may turn back at the first tree reduction.
    """
    nodes = graph.nodes
    level = _levels(graph, tree_stage, shards)
    writes = tuple(o for o in graph.outputs if nodes[o[1]].element)
    commits = tuple(o for o in graph.outputs if o not in writes)
    trees = [i for i, n in enumerate(nodes) if n.op in TREE_REDUCTIONS]
    reductions = [i for i in range(len(nodes)) if graph.of_elements(i)]
    joined = [i for i in range(len(nodes)) if shards and graph.joins(i)]
    last = max([level[i] for _, i in graph.outputs] + [level[i] - 1 for i in trees], default=0)
    last_pass = max([level[i] for _, i in writes] + [level[i] - 1 for i in reductions], default=0)
    stages = []
    first = min((level[i] for i in trees), default=0) if asks else 0
    when = _early(graph, level, writes, first, last_pass)
    for s in range(last + 1):
        here = tuple(i for i in reductions if level[i] == s + 1)
        written = tuple(o for o in writes if when[o] == s)
        roots = [nodes[i].args[0] for i in here] + [i for _, i in written]
        values = [i for i, n in enumerate(nodes) if not n.element and level[i] == s]
        stages.append(
            Stage(
                _groups(graph, values),
                _elements(graph, roots),
                here,
                tuple(i for i in trees if level[i] == s + 1),
                written,
                tuple(i for i in joined if level[i] == s + 1),
            )
        )
    kept = _kept(graph, stages, commits)
    return StagePlan(
        graph,
        tuple(stages),
        commits,
        tuple(i for i in kept if not nodes[i].many),
        tuple(i for i in kept if nodes[i].many),
        shards,
    )


def _early(
    graph: Graph,
    level: Sequence[int],
    writes: Sequence[tuple[Input, int]],
    first: int,
    last: int,
) -> dict[tuple[Input, int], int]:
    """The stage in which every elementwise output is written: the last pass, or one before it.

    Before means in a pass that all leaves finish before the last one begins, where that saves
    reading memory and nobody reads afterwards what is overwritten; not in one before ``first``.
    """
    nodes = graph.nodes
    when = dict.fromkeys(writes, last)
    joint = max((level[i] for i, n in enumerate(nodes) if n.op in TREE_REDUCTIONS), default=0)
    sums: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        if graph.of_elements(i):
            sums.setdefault(level[i] - 1, []).append(node.args[0])

    def reads(when: Mapping[tuple[Input, int], int]) -> dict[int, set[int]]:
        stages = {*sums, last}
        roots = {s: sums.get(s, []) + [o[1] for o in writes if when[o] == s] for s in stages}
        loads = {s: _elements(graph, roots[s]) for s in stages}
        return {s: {i for i in loads[s] if nodes[i].op == "input"} for s in stages}

    def size(read: Mapping[int, set[int]]) -> float:
        return sum(_size(nodes[i]) for s in read for i in read[s])

    for output in writes:
        for s in sums:
            if not max(level[output[1]], first) <= s < min(joint, last):
                continue
            tried = {**when, output: s}
            read = reads(tried)
            later = {nodes[i].value for at in read if at > s for i in read[at]}
            if output[0] not in later and size(read) < size(reads(when)):
                when = tried
    return when


def _size(node: Node) -> float:
    """Bytes an element that it takes to read an array."""
    each = 8 if node.form == "bits" else node.each or 1
    return getattr(torch, node.dtype).itemsize / each


def _groups(graph: Graph, values: Sequence[int]) -> tuple[Group, ...]:
    """Values in an order of evaluation with few changes of form."""
    nodes, groups = graph.nodes, []
    waiting = list(values)
    while waiting:
        for form in ("scalar", *VECTORS):
            ready = []
            for i in waiting:
                ours = nodes[i].form == form
                if ours and not any(a in waiting and a not in ready for a in _before(graph, i)):
                    ready.append(i)
            if ready:
                groups.append(Group(form, tuple(ready)))
                waiting = [i for i in waiting if i not in ready]
    return tuple(groups)


def _before(graph: Graph, i: int) -> tuple[int, ...]:
    """The arguments that are values of the same stage."""
    return () if graph.of_elements(i) else graph.nodes[i].args


def _kept(graph: Graph, stages: list[Stage], commits: tuple[tuple[Input, int], ...]) -> list[int]:
    """Values that are used outside the group that computes them."""
    nodes = graph.nodes
    kept = {i for _, i in commits}
    kept.update(i for stage in stages for i in stage.reductions if nodes[i].many)
    inputs = set()  # vectors that can be read where they stand
    for stage in stages:
        for i in stage.elements:
            kept.update(nodes[i].args)
        for group in stage.values:
            for i in group.nodes:
                kept.update(a for a in _before(graph, i) if a not in group.nodes)
                if nodes[i].op == "input" and nodes[i].many:
                    inputs.add(i)
        kept.update(nodes[i].args[0] for i in stage.tree)
    kept -= inputs - {i for _, i in commits}
    return sorted(i for i in kept if not nodes[i].element and nodes[i].op not in ("const", *SIZES))


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
