"""One step of an optimizer, parameter by parameter, as gradients become ready."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import hyper as hyper_
from ..core.autocast import outside_autocast
from ..core.declared import ScheduledState
from ..core.execution import NextShared, holds
from ..core.protocol import GradientTransformation, members
from ..core.tree import PyTree, children
from ..fuse import NestedEngine, Prepared, Written
from .fused import FusedSteps
from .leaves import (
    Leaves,
    Nested,
    from_nested,
    gradient_of,
    map_tensors,
    merge_into,
    part_of,
    storage_of,
    tensors,
    to_nested,
    with_own_memory,
)
from .optimizer import Optimizer
from .repeat import GroupValues


def check_leafwise(who: str, tx: GradientTransformation) -> None:
    """Raise unless the leaves of a chain can be updated one by one.

    Raises:
        ValueError: names the member that needs them all.
    """
    for path, member in members(tx):
        if not holds(member, "leaves_independent"):
            raise ValueError(
                f"{who}: {path or tx.name} needs all gradients at once, or does not say that it "
                f"does not (Execution.leaves_independent); the chain is {list(tx.inner)}"
            )
    if len(summing := _summing(tx)) > 1:
        raise ValueError(f"{who}: only one member may sum over leaves, got {list(summing)}")


def _summing(tx: GradientTransformation) -> dict[str, Any]:
    """The members that need sums over leaves once all are done, by path."""
    return {
        path: member for path, member in members(tx) if member.execution.next_shared is not None
    }


class Collect:
    """The ``reduce`` of one leaf's update: notes what it would have summed over leaves."""

    def __init__(self) -> None:
        self.summands: list[Tensor] = []

    def sum(self, x: Tensor) -> Tensor:
        """Note ``x`` and return it."""
        self.summands.append(x)
        return x

    def mean(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x

    max = mean


class OneLeaf(FusedSteps):
    """Fused steps of one parameter: tables of its own, everything else shared.

    Args:
        all_leaves: what runs the chain on all leaves.
    """

    def __init__(self, all_leaves: FusedSteps) -> None:
        super().__init__()
        self._all = all_leaves

    def engine(self, tx: GradientTransformation) -> NestedEngine:
        if tx not in self._engines:
            self._engines[tx] = self._all.engine(tx).another()
        return self._engines[tx]

    def prepare(
        self, tx: GradientTransformation, how: str, compiled: bool = False, **step: Any
    ) -> Prepared | str:
        """As of all leaves; what cannot be fused is said once, not leaf by leaf."""
        if tx in self._all._failures:
            self._failures.setdefault(tx, 1)
        prepared = super().prepare(tx, how, compiled, **step)
        if isinstance(prepared, str):
            self._all._failures.setdefault(tx, 1)
        return prepared


class Kept(NamedTuple):
    """What is kept of a parameter between steps.

    Attributes:
        fused: its engines.
        shared: its own tensors for what all leaves share, by chain.
    """

    fused: OneLeaf
    shared: dict[GradientTransformation, Nested]


class Bucket:
    """The parameters of one chain during one step.

    What they share stays for every leaf what it was before the step; ``finish`` hands round what it
    has become.

    Args:
        optimizer: the optimizer.
        tx: the chain.
        groups: its parameters with their groups.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        tx: GradientTransformation,
        groups: Mapping[Tensor, dict[str, Any]],
    ) -> None:
        self.optimizer = optimizer
        self.tx = tx
        self.groups = groups
        self.summing = _summing(tx)
        self.before: Nested | None = None
        self.after: Nested = {}
        self._totals: list[Tensor] = []
        self._hyper: list[Mapping[str, Any]] = []
        self._structure: tuple[str, PyTree] = ("", None)
        self._rows: dict[int, GroupValues] = {}

    def step(self, p: Tensor, name: str, kept: Kept, fused: bool) -> None:
        """Update one parameter. Nothing has changed if an exception is raised."""
        optimizer, group = self.optimizer, self.groups[p]
        grad = gradient_of(self.tx, name, p, group)
        assert grad is not None
        who = type(optimizer).__name__
        skeletons, states = optimizer._skeletons.complete(
            who, self.tx, [p], {p: name}, optimizer.state, [p]
        )
        skeleton, state = skeletons[name], states[name]
        shared = self._enter(skeleton, name, state, kept)
        if self.summing or not (fused and self._run_fused(p, name, state, kept)):
            self._run_pure(p, name, grad, skeleton, state, shared)
        if optimizer.state.get(p) is not state:
            optimizer.state[p] = state
        self.after = shared

    def finish(self, kept: Mapping[Tensor, Kept]) -> None:
        """Give all parameters what they share after the step."""
        if not self.after:
            return
        for path, member in self.summing.items():
            self._finish_sums(path, member)
        for p in self.groups:
            state = self.optimizer.state.get(p)
            if not state:
                continue
            own = kept[p].shared.get(self.tx) if p in kept else None
            if own is None:
                own = map_tensors(torch.clone, self.after)
            elif own is not self.after:
                merge_into(own, self.after, in_place=True)
            merge_into(state, own, in_place=False)

    def _enter(self, skeleton: PyTree, name: str, state: Nested, kept: Kept) -> Nested:
        """Put the parameter's own copy of the shared part, as of before the step, in its state."""
        if self.before is None:
            self._structure = name, skeleton
            held: Nested = next((s for s in map(self.optimizer.state.get, self.groups) if s), {})
            shared = part_of({**state, **held}, to_nested(skeleton, None))
            self.before = map_tensors(torch.clone, shared)
        if not self.before:
            return {}
        own = kept.shared.setdefault(self.tx, {})
        merge_into(own, map_tensors(torch.clone, self.before), in_place=True)
        merge_into(state, own, in_place=False)
        return own

    def _run_fused(self, p: Tensor, name: str, state: Nested, kept: Kept) -> bool:
        group = self.groups[p]
        if id(group) not in self._rows:
            engine = kept.fused.engine(self.tx)
            self._rows[id(group)] = GroupValues(self.optimizer, group, engine)
        prepared = kept.fused.prepare(
            self.tx,
            "eager",
            bool(group["fused"]),
            params=[p],
            grads=[p.grad],
            states=[state],
            params_tree=lambda: Leaves({name: p}),
            hyper=[self._rows[id(group)].row],
            rows=[0],
            maximize=[group["maximize"]],
        )
        if not isinstance(prepared, str):
            prepared.write()
            return True
        if group["fused"]:
            raise RuntimeError(f"{type(self.optimizer).__name__}: fused=True, but {prepared}")
        return False

    def _run_pure(
        self,
        p: Tensor,
        name: str,
        grad: Tensor,
        skeleton: PyTree,
        state: Nested,
        shared: Nested,
    ) -> None:
        group, collect = self.groups[p], Collect()
        hyper = self.optimizer._values(group)
        run = self.optimizer._fused.fallback(self.tx, "eager")  # a graph per leaf takes too long
        moved, new_state = run(
            Leaves({name: grad}),
            from_nested({name: skeleton}, {name: state}, state),
            Leaves({name: p}),
            hyper,
            {"reduce": collect} if self.summing else {},
        )
        foreign = {storage_of(p), storage_of(grad)}
        if group["capturable"]:
            foreign.update(map(storage_of, tensors(state)))
        nested = with_own_memory(to_nested(new_state, name), foreign)
        totals = self._totals or [torch.zeros_like(x) for x in collect.summands]
        self._totals = [t + x.to(t.device) for t, x in zip(totals, collect.summands, strict=True)]
        self._hyper.append(hyper)
        p.copy_(moved[name])
        merge_into(state, nested, in_place=group["capturable"])
        if shared:
            merge_into(shared, to_nested(new_state, None), in_place=True)
            merge_into(state, shared, in_place=False)

    def _finish_sums(self, path: str, member: Any) -> None:
        """What a summing member makes of the sums of all leaves, put into ``after``."""
        name, skeleton = self._structure
        before = from_nested({name: skeleton}, {name: {}}, self.before)
        hint = member.execution.next_shared
        where, shared, count = _find_shared(before, path, hint)
        hyper: Mapping[str, Any] | None = {
            key: [values[key] for values in self._hyper] for key in self._hyper[0]
        }
        for part in path.split("."):
            hyper = hyper_.scoped(hyper, part)
        new = hint.compute(member, shared, tuple(self._totals), hyper or {}, count)
        target = self.after
        for part in where:
            target = target[part]
        merge_into(target, to_nested(new, None), in_place=True)


def _find_shared(
    state: PyTree, path: str, hint: NextShared
) -> tuple[tuple[str, ...], Any, Tensor | None]:
    """What all leaves share of a member: its path, itself, and the member's update count."""

    def visit(
        node: PyTree, where: tuple[str, ...], count: Tensor | None
    ) -> Iterator[tuple[tuple[str, ...], Any, Tensor | None]]:
        if isinstance(node, Leaves):
            return
        if isinstance(node, hint.state):
            yield (*where, hint.field), getattr(node, hint.field), count
            return
        inner = node.step if isinstance(node, ScheduledState) else None
        for name, child in children(node) or ():
            yield from visit(child, (*where, name), inner)

    found = list(visit(state, (), None))
    if len(found) > 1:  # several of one class: by the name in the chain
        found = [one for one in found if one[0][0] == path.partition(".")[0]]
    (only,) = found
    return only


class Leafwise:
    """Steps of an optimizer, parameter by parameter.

    Args:
        optimizer: the optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._kept: dict[Tensor, Kept] = {}
        self._buckets: dict[Tensor, Bucket] = {}
        self._names: dict[Tensor, str] = {}
        self._done: set[Tensor] = set()
        self._fused = True
        self._written = Written()

    def begin(self, who: str) -> None:
        """Begin a step with the optimizer's groups as they are now.

        Raises:
            ValueError: a chain that needs all gradients at once.
        """
        optimizer = self.optimizer
        optimizer._check_step()
        self._names = optimizer._names()
        self._done = set()
        self._buckets = {}
        self._kept = {p: kept for p, kept in self._kept.items() if p in self._names}
        chains = list(optimizer._buckets())
        for tx, _ in chains:
            check_leafwise(who, tx)
        optimizer._follow_options(chains, self._names)
        for tx, groups in chains:
            bucket = Bucket(optimizer, tx, groups)
            self._buckets.update(dict.fromkeys(groups, bucket))
        writes = [p for p in self._buckets if p.requires_grad]
        self._written.check(
            type(optimizer).__name__, writes, lambda: [self._names[p] for p in writes]
        )
        self._fused = all(group["fused"] is not False for group in optimizer.param_groups)

    @outside_autocast
    def step(self, p: Tensor) -> None:
        """Update one parameter, unless it is no longer the optimizer's.

        Raises:
            RuntimeError: it has been updated in this step before.
        """
        if p not in self._buckets:
            return
        name = self._names[p]
        if p in self._done:
            raise RuntimeError(
                f"step_in_backward: parameter {name!r} got gradients twice in one backward pass"
            )
        if p not in self._kept:
            self._kept[p] = Kept(OneLeaf(self.optimizer._fused), {})
        with torch.no_grad():
            self._buckets[p].step(p, name, self._kept[p], self._fused)
        self._done.add(p)

    def rest(self) -> list[Tensor]:
        """The parameters with a gradient that have not been updated in this step."""
        return [p for p in self._buckets if p.grad is not None and p not in self._done]

    @outside_autocast
    def finish(self) -> None:
        """End the step: what parameters share is brought up to date."""
        with torch.no_grad():
            for bucket in dict.fromkeys(self._buckets.values()):
                bucket.finish(self._kept)
        self._buckets = {}
