"""Launch tables for a fixed list of leaves, and one step over them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.reduce import Reduce
from ...core.tree import accumulator_dtype
from ..cpp.kernel import Kernel, Table
from ..frontend.memory import Spans, is_dense, overlaps_itself, same_order
from ..ir.errors import CannotFuseError
from ..ir.graph import Input
from .backend import BackEnd, make_table
from .batch import Batch, HyperNames
from .door import Gradients, Owned, is_in_order, order
from .member import copy_all, run_member
from .segments import Kind, Segment, Segments

_GRAD, _PARAM = Input("grad"), Input("param")
_UPDATE, _FACTOR, _SQUARES = Input("update"), Input("factor"), Input("squares")


class Group:
    """Leaves of a segment that run through one kernel."""

    def __init__(self, table: Table, leaves: list[int], states: slice) -> None:
        self.table = table
        self.leaves = leaves
        self.states = states
        self.columns = {where: k for k, where in enumerate(table.kernel.columns)}

    def fill(self, where: Input, addresses: Sequence[int] | np.ndarray) -> None:
        """Write one column of the pointer table from the addresses of all leaves."""
        k = self.columns.get(where)
        if k is None:
            return
        if len(self.leaves) == len(addresses):
            self.table.pointers[k] = addresses
        else:
            self.table.pointers[k] = [addresses[i] for i in self.leaves]


def _every_leaf(plan: LaunchPlan, segment: Segment) -> Sequence[int]:
    return range(len(plan.kinds))


@dataclass(frozen=True)
class Strategy:
    """How a plan makes a step.

    Attributes:
        name: for people.
        prepare: computes everything that may fail; its result writes.
        in_tables: the leaves of a segment that run in tables of several; called once, by a new
            plan.
        variants: the kernels of a segment that is not the last: "emit" gives updates, "commit"
            writes state, "all" does both.
        by_row: whether every leaf is gone through row by row, and not only where its kernels ask
            for it.
        fails_late: whether what ``prepare`` gives may still raise.
    """

    name: str
    prepare: Callable[[LaunchPlan, Batch], Callable[[], None]]
    in_tables: Callable[[LaunchPlan, Segment], Sequence[int]] = _every_leaf
    variants: tuple[str, ...] = ("emit", "commit")
    by_row: bool = False
    fails_late: bool = False


class LaunchPlan:
    """Everything about a step that stays the same while the same tensors come back.

    Args:
        names: the hyperparameters.
        segments: the graphs.
        cut: the segments.
        kernels: per fused segment and variant, the kernel of every kind of leaf.
        kinds: per leaf its kind.
        batch: the leaves.
        back_end: what runs them.
        spans: all that the step writes, of other tables too.
        strategy: how a step is made.
        reduce: joins leaves with those of other processes.

    Attributes:
        written: whether a step has been written.
    """

    def __init__(
        self,
        names: HyperNames,
        segments: Segments,
        cut: tuple[Segment, ...],
        kernels: Mapping[tuple[Segment, str], Mapping[Kind, Kernel]],
        kinds: list[Kind],
        batch: Batch,
        back_end: BackEnd,
        spans: Spans,
        strategy: Strategy,
        reduce: Reduce | None = None,
    ) -> None:
        self.strategy = strategy
        self.reduce = reduce
        self.written = False
        self.back_end = back_end
        self.segments = segments
        self.cut = cut
        self.kinds = kinds
        choices = {kind.choice for kind in kinds}
        self.choice = choices.pop() if len(choices) == 1 else None
        self.result = _UPDATE if kinds[0].signature.blind else _PARAM
        self.batch = replace(batch, grads=[], extra={})  # those may be freed between steps
        self.columns = (*batch.hyper[0], *batch.extra)
        self.of_tree = [i for i, n in enumerate(self.columns) if n in names.of_tree]
        self.hyper = back_end.numbers(len(batch.hyper), max(len(self.columns), 1))
        self.kernels = kernels
        self.owned = Owned(batch.params, batch.every_state())
        self.rows = list(batch.rows)
        self.maximize = list(batch.maximize)
        # Where a leaf is seen as a matrix or as blocks, or has a state that lies as such, its
        # logical order counts.
        seen = {k for kernel in kernels.values() for k, v in kernel.items() if v.graph.ordered}
        self.ordered = [
            strategy.by_row or kind in seen or _is_reshaped(p, states)
            for kind, p, states in zip(kinds, batch.params, batch.states, strict=True)
        ]
        self.strides = list(map(order, batch.params, self.ordered))
        self.awkward = [
            i
            for i in range(len(kinds))
            if _is_awkward(batch.params[i], batch.states[i], self.ordered[i])
        ]
        for i in self.awkward:
            for x in (batch.params[i], *batch.states[i]):
                if overlaps_itself(x):
                    raise CannotFuseError("", f"elements of parameter or state {i} share memory")
        self.groups = {key: self._group(key[0], by_kind, batch) for key, by_kind in kernels.items()}
        self.gradient_addresses = np.empty(0, dtype=np.int64)
        self.gradients = Gradients(
            batch.params,
            [kind.signature.grad for kind in kinds],
            self.strides,
            spans,
        )
        for key in self.groups:
            self._fill_owned(key, batch.params, batch.states)

    def fits(self, batch: Batch) -> bool:
        """Whether these tables serve a batch: same tensors at the same addresses."""
        same = batch.states is self.batch.states and batch.params is self.batch.params
        if not same and len(batch.params) != len(self.kinds):
            return False
        same = same or self.owned.is_(batch.owned())
        return same and self.owned.lies_still() and self._same_rows(batch)

    def fits_others(self, batch: Batch) -> bool:
        """Whether these tables serve a batch of the same leaves that lie elsewhere."""
        return self.owned.lies_like(batch.params) and self._same_rows(batch)

    def _same_rows(self, batch: Batch) -> bool:
        return (
            self.rows == batch.rows
            and self.maximize == batch.maximize
            and len(self.hyper) == len(batch.hyper)
            and self.columns == (*batch.hyper[0], *batch.extra)
        )

    def move(self, batch: Batch) -> None:
        """Take a batch of the same leaves whose parameters lie elsewhere."""
        self.batch = replace(batch, grads=[], extra={})
        self.owned = Owned(batch.params, batch.every_state())
        self.gradients.spans = Spans(self.owned.tensors)
        for key in self.groups:
            self._fill_owned(key, batch.params, batch.states)

    def forget(self) -> None:
        """Let go of parameters and states; ``move`` comes before the next step."""
        self.batch = replace(self.batch, params=[], states=[], shared=[])
        self.owned.forget()

    @property
    def fails_late(self) -> bool:
        """Whether what ``prepare`` gives may still raise."""
        return self.strategy.fails_late

    @property
    def pieces(self) -> list[LaunchPlan]:
        """This one; see ``Separate``."""
        return [self]

    def run(self, batch: Batch) -> None:
        """One step: compute everything that may fail, then write."""
        self.prepare(batch)()

    def prepare(self, batch: Batch) -> Callable[[], None]:
        """Compute everything that may fail; the result writes."""
        return self.strategy.prepare(self, batch)

    # -- what strategies are made of -----------------------------------------------------------

    def compute(
        self, batch: Batch, phases: tuple[str, ...] = ("emit", "commit")
    ) -> Callable[[], None]:
        """Compute the updates of all leaves; the result writes.

        Args:
            batch: the leaves.
            phases: kernels of every segment before the last: those of the first phase run now,
                the others when the result writes.
        """
        grads = self.gradients_of(batch)
        self.fill_hyper(batch)
        params, states = batch.params, batch.states
        if self.awkward:
            params, states = self._compact(batch)
        updates: list[Tensor] | None = None
        commits: list[tuple[Tensor, Tensor]] = []
        held = [grads]  # until it is written: kernels know addresses only
        for segment, following in itertools.pairwise(self.cut):
            if segment.fused:
                updates = self._emit(segment, updates, batch, phases)
            else:
                updates = self._pure(segment, grads, updates, batch, commits)
            if following.fused:
                held.append(updates)
        return partial(self._write, batch, held, (params, states), commits, phases[1:])

    def _write(
        self,
        batch: Batch,
        held: list[list[Tensor]],
        dense: tuple[list[Tensor], list[list[Tensor]]],
        commits: list[tuple[Tensor, Tensor]],
        phases: tuple[str, ...],
    ) -> None:
        self.point(self.cut[-1], "all", held[-1] if len(held) > 1 else None)
        for segment in self.cut[:-1]:
            for variant in phases if segment.fused else ():
                self.launch(segment, variant)
        self.launch(self.cut[-1], "all")
        params, states = dense
        for i in self.awkward:
            for old, new in zip(
                (batch.params[i], *batch.states[i]), (params[i], *states[i]), strict=True
            ):
                old.detach().copy_(new)
        copy_all(commits)  # last: the copies above hold the old state of such members
        self.written = True

    # -- tables --------------------------------------------------------------------------------

    def _group(self, segment: Segment, by_kind: Mapping[Kind, Kernel], batch: Batch) -> list[Group]:
        leaves: dict[tuple[Kernel, tuple[int, int]], list[int]] = {}
        for i in self.strategy.in_tables(self, segment):
            kind = self.kinds[i]
            _, where = self.segments.structure(segment, kind.signature.structure)
            key = (by_kind[kind], (where.start, where.stop))
            leaves.setdefault(key, []).append(i)
        for (kernel, (start, _)), numbers in leaves.items():
            for target, each in kernel.graph.blocks().items():
                for i in numbers:
                    size = batch.states[i][start + target.index].numel()
                    if size != -(-batch.params[i].numel() // each):
                        raise CannotFuseError("", f"parameter {i} has {size} blocks of {each}")
        shared = [x.data_ptr() for x in batch.shared[self.segments.shared(segment)]]
        return [
            Group(
                make_table(
                    self.back_end,
                    kernel,
                    [batch.params[i] for i in where],
                    [batch.rows[i] for i in where],
                    self.hyper,
                    shared,
                    [batch.wholes[i].rows for i in where] if batch.wholes else (),
                ),
                where,
                slice(*states),
            )
            for (kernel, states), where in leaves.items()
        ]

    def _fill_owned(
        self,
        key: tuple[Segment, str],
        params: Sequence[Tensor],
        states: Sequence[Sequence[Tensor]],
    ) -> None:
        for group in self.groups[key]:
            for where in group.columns:
                if where == self.result:
                    addresses = [params[i].data_ptr() for i in group.leaves]
                elif where.kind == "state":
                    at = group.states.start + where.index
                    addresses = [states[i][at].data_ptr() for i in group.leaves]
                else:
                    continue
                group.table.pointers[group.columns[where]] = addresses

    def fill_hyper(self, batch: Batch) -> None:
        """Write this step's hyperparameters."""
        number = self.back_end.number
        for r, row in enumerate(batch.hyper):
            every = {**row, **batch.extra}  # rows may name their values in any order
            self.hyper[r, : len(self.columns)] = [number(every[n]) for n in self.columns]
        if len(batch.hyper) > 1:
            for k in self.of_tree:
                if (self.hyper[:, k] != self.hyper[0, k]).any():
                    raise ValueError(f"{self.columns[k]} must be the same for all leaves")

    # -- tensors of one step -------------------------------------------------------------------

    def gradients_of(self, batch: Batch) -> list[Tensor]:
        """The gradients, in the memory order of their parameters."""
        grads, self.gradient_addresses = self.gradients.admit(batch.grads)
        return grads

    def _compact(self, batch: Batch) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Dense copies of what is not dense, or not ordered like its parameter."""
        params, states = list(batch.params), list(batch.states)
        for i in self.awkward:
            params[i] = self._like(i, params[i], params[i].dtype).copy_(params[i].detach())
            states[i] = [
                self._like(i, s, s.dtype).copy_(s)
                if s.shape == params[i].shape
                else s.clone(memory_format=torch.contiguous_format)
                for s in states[i]
            ]
        for key in self.groups:
            self._fill_owned(key, params, states)
        return params, states

    def _like(self, i: int, p: Tensor, dtype: torch.dtype) -> Tensor:
        """Memory for elements in the order in which leaf ``i`` is gone through."""
        return torch.empty_strided(p.shape, self.strides[i], dtype=dtype, device=p.device)

    def point(
        self, segment: Segment, variant: str, updates: list[Any] | None, what: Input | None = None
    ) -> None:
        """Tell the kernels of a segment where gradients are, and updates or ``what`` they are."""
        incoming: dict[Input, list[int]] = {}
        if updates is not None and segment.factored and what is None:
            incoming[_FACTOR] = [u.factor.data_ptr() for u in updates]
            if segment.measured:
                squares = [u.squares for u in updates]
                incoming[_SQUARES] = [0 if x is None else x.data_ptr() for x in squares]
        elif updates is not None:
            incoming[what or _UPDATE] = [u.data_ptr() for u in updates]
        for group in self.groups[segment, variant]:
            group.fill(_GRAD, self.gradient_addresses)
            for target, where in incoming.items():
                group.fill(target, where)

    def launch(self, segment: Segment, variant: str) -> None:
        """Run the kernels of a segment."""
        groups = self.groups[segment, variant]
        self.back_end.run_tables([g.table for g in groups], self.reduce)

    # -- segments ---------------------------------------------------------------------------------

    def _emit(
        self,
        segment: Segment,
        updates: list[Tensor] | None,
        batch: Batch,
        phases: tuple[str, ...],
    ) -> list[Tensor]:
        """The updates that a fused segment gives; its state is written in the phases after it."""
        now, *later = phases
        out = [
            self._like(i, p, accumulator_dtype(g.dtype))
            for i, (p, g) in enumerate(zip(batch.params, batch.grads, strict=True))
        ]
        if segment.factored:
            self.point(segment, now, updates)
        elif updates is not None:
            for u, o in zip(updates, out, strict=True):
                o.copy_(u)
        self.point(segment, now, out, _UPDATE)
        for variant in later:
            self.point(segment, variant, updates)
        self.launch(segment, now)
        return out

    def _pure(
        self,
        segment: Segment,
        grads: list[Tensor],
        updates: list[Tensor] | None,
        batch: Batch,
        commits: list[tuple[Tensor, Tensor]],
    ) -> list[Any]:
        """The updates that a member gives as torch operations; notes its new state."""
        member = self.segments.as_it_is(segment, self.choice)
        leaves, new = run_member(self.segments, segment, member, batch, grads, updates)
        name = self.segments.names[segment.start]
        for a, b in new:
            if a.shape != b.shape or a.dtype != b.dtype:
                raise CannotFuseError(name, "changes shape or dtype of its state")
        commits.extend(new)
        if segment.factored:
            return [leaf.contiguous() for leaf in leaves]
        return self._dense_updates(name, batch, leaves)

    def _dense_updates(self, name: str, batch: Batch, leaves: list[Any]) -> list[Tensor]:
        out = []
        for i, (g, p) in enumerate(zip(batch.grads, batch.params, strict=True)):
            u = leaves[i]
            if not isinstance(u, Tensor) or u.shape != p.shape:
                raise CannotFuseError(
                    name, f"gives a {type(u).__name__} of another form than the leaf"
                )
            if u.dtype != accumulator_dtype(g.dtype):
                raise CannotFuseError(name, f"gives updates of dtype {u.dtype}")
            if not is_in_order(u, self.strides[i]):
                u = self._like(i, p, u.dtype).copy_(u)
            out.append(u)
        return out


AT_ONCE = Strategy("at once", LaunchPlan.compute)


def _is_reshaped(p: Tensor, states: Sequence[Tensor]) -> bool:
    """Whether a state has the elements of a leaf in another shape."""
    return any(s.shape != p.shape and s.numel() == p.numel() > 1 for s in states)


def _is_awkward(p: Tensor, states: Sequence[Tensor], ordered: bool) -> bool:
    if p.is_neg() or any(s.is_neg() for s in states):
        return True
    if p.is_contiguous() and all(s.is_contiguous() for s in states):
        return False
    if ordered:
        return True
    like_leaf = [s for s in states if s.shape == p.shape]
    return not is_dense(p) or not all(is_dense(s) and same_order(p, s) for s in like_leaf)
