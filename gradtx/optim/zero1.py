"""Ordinary parameters in several processes, each of which updates some of them (ZeRO-1)."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from operator import is_
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..distributed.hooking import register
from ..distributed.records import Record, is_distributed, records_of
from ..distributed.sharing import Share
from ..distributed.sum_over import SumOver
from ..distributed.to_owners import ToOwners, check_one_optimizer
from .agreeing import plans_of
from .arguments import with_mean_value
from .counting import count_missed
from .evaluating import EvaluatingOptimizer
from .layouts import Layout, whole_leaves
from .migration import Bucket
from .optimizer import Optimizer
from .shard_states import from_holders
from .shards import Shards
from .step_in_backward import steps_in_backward

_WHO = "zero1"
Kind = TypeVar("Kind", bound=Optimizer)


class _Plan:
    """Owners for the parameters and chains that an optimizer has now, and what updates its own.

    Args:
        optimizer: the optimizer.
        names: of its parameters.
        chains: with their parameters.
        group: the ranks.
    """

    def __init__(
        self, optimizer: Any, names: Mapping[Tensor, str], chains: Sequence[Bucket], group: Any
    ) -> None:
        who = type(optimizer).__name__
        self.params, self.groups = list(names), list(optimizer.param_groups)
        self._of_groups = [list(g["params"]) for g in self.groups]
        self._transforms = [optimizer.transform_of(g) for g in self.groups]
        self._fused = [g["fused"] for g in self.groups]
        layout, found = self._agree(who, names, chains, group)
        self.records = dict(zip(self.params, found, strict=True))
        self._rank, ranks = dist.get_rank(group), dist.get_world_size(group)
        found_owners = layout.owners(names, ranks)
        self.owners = {p: rank for p, rank in found_owners.items() if rank is not None}
        self.own = [p for p in self.params if self.owners[p] == self._rank]
        by_rank = [[p for p in self.params if self.owners[p] == r] for r in range(ranks)]
        self.share = Share(group, by_rank, self.params[0].device)
        self._start(optimizer, names, layout, group)

    def _agree(
        self, who: str, names: Mapping[Tensor, str], chains: Sequence[Bucket], group: Any
    ) -> tuple[Layout, list[Record]]:
        """The layout and the records of all leaves, once ranks know that they have the same."""
        layout, error = None, None
        try:
            _check_leaves(who, names)
            layout = whole_leaves(who, chains, names)
        except Exception as found:  # told to the others, who would wait for this rank
            error = found
        of_groups = zip(self._of_groups, self._transforms, strict=True)
        each = {p: tx for params, tx in of_groups for p in params}
        plans = plans_of(names, self.groups, each, dict.fromkeys(names, "owned"), {})
        leaves = {name: p.detach() for p, name in names.items()}
        records = records_of(who, group, leaves, plans, error)
        assert layout is not None
        return layout, records

    def _start(
        self,
        optimizer: Any,
        names: Mapping[Tensor, str],
        layout: Layout,
        group: Any,
    ) -> None:
        """The same optimizer with the parameters that this rank updates."""
        self.inner = inner = copy.copy(optimizer)
        inner.state, inner.param_groups = defaultdict(dict), []
        # For every chain that sums over leaves one without elements: who has no other still adds.
        self._nothing: list[tuple[Tensor, list[Tensor]]] = []
        missing, own = set(layout.joined), set(self.own)
        for options, tx in zip(self.groups, self._transforms, strict=True):
            here = [p for p in options["params"] if p in own]
            called = [names[p] for p in here]
            if tx in missing:
                missing.remove(tx)
                like = options["params"][0]
                nothing = torch.zeros(0, dtype=like.dtype, device=like.device)
                of_groups = zip(self._of_groups, self._transforms, strict=True)
                leaves = [p for params, chain in of_groups if chain == tx for p in params]
                self._nothing.append((nothing, leaves))
                here, called = [*here, nothing], [*called, "(nothing)"]
            inner.param_groups.append({**options, "params": here, "param_names": called})
        inner._fused.reducing.update(dict.fromkeys(layout.joined, SumOver(group)))
        inner._fused.purely.update(layout.purely)

    def fits(self, optimizer: Any) -> bool:
        """Whether the optimizer still has the parameters and chains that it had."""
        groups = optimizer.param_groups
        return (
            _same(groups, self.groups)
            and all(
                _same(g["params"], then) for g, then in zip(groups, self._of_groups, strict=True)
            )
            and _same(list(map(optimizer.transform_of, groups)), self._transforms)
            and self._fused == [g["fused"] for g in groups]
        )

    def follow(self, optimizer: Any) -> None:
        """Take over states and options as they are now, and what those have been made by."""
        for mine, theirs in zip(self.inner.param_groups, self.groups, strict=True):
            mine.update({k: v for k, v in theirs.items() if k not in ("params", "param_names")})
        self.inner._forms = optimizer._forms
        for p in self.own:
            held = optimizer.state.get(p)
            if held is not self.inner.state.get(p):
                if held:
                    self.inner.state[p] = held
                else:
                    self.inner.state.pop(p, None)

    def update(self, extra: Mapping[str, Any]) -> None:
        """Update what this rank owns."""
        for x, leaves in self._nothing:  # a chain whose leaves have no gradient does no step
            there = any(p.grad is not None for p in leaves)
            x.grad = torch.zeros_like(x) if there else None
        self.inner._update(extra)
        of_groups = zip(self._of_groups, self._transforms, strict=True)
        moved = {tx for params, tx in of_groups if any(p.grad is not None for p in params)}
        count_missed(self.inner, moved, extra)

    def show(self, optimizer: Any) -> None:
        """Let the optimizer have the states of this rank's leaves, and no other."""
        for p in self.params:
            nested = self.inner.state.get(p)
            if nested is not None:
                optimizer.state[p] = nested
            elif self.owners[p] != self._rank:
                optimizer.state[p] = {}
            else:
                optimizer.state.pop(p, None)


class Owners(Shards):
    """What runs an optimizer of which every rank updates some leaves.

    Args:
        group: the ranks.
    """

    def __init__(self, group: Any) -> None:
        super().__init__()
        self._group = group
        self._plan: _Plan | None = None
        self.owners: dict[Tensor, int] = {}

    def find(self, optimizer: Any, names: Mapping[Tensor, str], chains: Sequence[Bucket]) -> bool:
        """Choose owners; all ranks do it together."""
        self._plan = _Plan(optimizer, names, chains, self._group)
        self.owners.clear()
        self.owners.update(self._plan.owners)
        self.there = True
        return True

    def _planned(self, optimizer: Any) -> _Plan:
        """The plan for parameters and chains as they are now."""
        plan = self._plan
        if plan is None or not plan.fits(optimizer):
            undo = None if plan is None else self.export(optimizer)
            try:
                self.find(optimizer, optimizer._names(), list(optimizer._buckets()))
            except BaseException:
                if undo is not None:
                    undo()
                raise
            assert self._plan is not None
            plan = self._plan
        return plan

    def step(self, optimizer: Any, extra: Mapping[str, Any]) -> bool:
        """Update this rank's leaves, and let all ranks have them."""
        if torch.is_grad_enabled():
            raise RuntimeError(f"{_WHO}: a step that is differentiated cannot be shared out")
        plan = self._planned(optimizer)
        plan.follow(optimizer)
        if plan.params:
            chains = map(optimizer.transform_of, plan.groups)
            reduce = SumOver(self._group)
            extra = with_mean_value(extra, chains, lambda: reduce, plan.params[0])
        try:
            plan.update(extra)
        finally:
            plan.share.run()  # other ranks wait for this one, whatever has happened
        plan.show(optimizer)
        return True

    def init_state(
        self, optimizer: Any, names: Mapping[Tensor, str], chains: Sequence[Bucket]
    ) -> bool:
        """Create the states of this rank's leaves."""
        plan = self._planned(optimizer)
        plan.follow(optimizer)
        plan.inner._init_states(lambda p: p.requires_grad)
        plan.show(optimizer)
        return True

    def share(self) -> None:
        """Let all ranks have the parameters as their owners have them."""
        if self._plan is not None:
            self._plan.share.run()

    @torch.no_grad()
    def export(self, optimizer: Any) -> Callable[[], None]:
        """Let all ranks have all states; gives what undoes it."""
        plan = self._plan
        assert plan is not None
        plan.follow(optimizer)
        inner, before = plan.inner, dict(optimizer.state)
        undo_follow = inner._follow_options(list(inner._buckets()), inner._names())
        held = {p: inner.state.get(p, {}) for p in plan.own}
        every = from_holders(self._group, held, plan.records)
        optimizer.state.update({p: nested for p, nested in every.items() if nested})
        for p in plan.params:
            if not every[p]:
                optimizer.state.pop(p, None)

        def undo() -> None:
            optimizer.state.clear()
            optimizer.state.update(before)
            undo_follow()

        return undo


def zero1(optimizer: Kind, group: Any = None, model: nn.Module | None = None) -> Kind:
    """Let every process update some of the parameters, and keep their state alone (ZeRO-1).

    A leaf goes whole to an owner, by longest processing time with the floating-point operations of
    its update. ``step`` updates what this rank owns and gives it to all others in one all-gather;
    chains that look at all leaves together add up sums over ranks, or have one owner. Every rank
    must have all gradients, as ``DistributedDataParallel`` leaves them; parameters begin alike.

    ``state_dict()`` is called by all ranks together and has the states of all leaves, for any
    number of processes; ``load_state_dict`` takes it, and keeps what is owned. Between them
    ``state[p]`` is empty where p has another owner. Copies and pickles of the optimizer are
    ordinary ones with what this rank has.

    Args:
        optimizer: of ``gx.optim``, the same on all ranks; it is changed in place.
        group: process group; None is the default one.
        model: the ``DistributedDataParallel`` module whose parameters it has. Gradients are then
            averaged on owners alone, by a communication hook: half the traffic. Elsewhere they stay
            local, so that norms over all of them, as for clipping before ``step`` or finding
            overflows, are wrong; a clipping member of the chain is right.

    Returns:
        The optimizer.

    Raises:
        RuntimeError: there is no process group, or the model has another communication hook.
        TypeError: no optimizer of ``gx.optim``, one that calls its closure more than once, or a
            model of another class.
        ValueError: a leaf is sharded (names it), ranks have other leaves or other chains, the
            optimizer steps in backward, or model and optimizer have other parameters.

    Source: arXiv 1910.02054.

    >>> import torch, gradtx as gx
    >>> # model = DistributedDataParallel(module)
    >>> # optimizer = gx.optim.zero1(gx.optim.Muon(module.named_parameters()), model=model)
    >>> gx.optim.zero1(gx.optim.SGD([torch.nn.Parameter(torch.ones(2))]))
    Traceback (most recent call last):
    RuntimeError: zero1: there is no process group; call init_process_group() first
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{_WHO}: needs a gradtx optimizer, got {type(optimizer).__name__}")
    who = type(optimizer).__name__
    if isinstance(optimizer, EvaluatingOptimizer):
        raise TypeError(
            f"{_WHO}: {who} looks at the loss more than once a step, which all ranks would have to "
            "do together; use it without zero1"
        )
    if steps_in_backward(optimizer):
        raise ValueError(f"{_WHO}: this {who} steps in backward; remove() its hooks first")
    names = optimizer._names()
    if model is not None:
        if not isinstance(model, nn.parallel.DistributedDataParallel):
            raise TypeError(
                f"{_WHO}: model must be a DistributedDataParallel module, got "
                f"{type(model).__name__}; leave it out where gradients are averaged otherwise"
            )
        check_one_optimizer(_WHO, model.module, names)
    if not dist.is_initialized():
        raise RuntimeError(f"{_WHO}: there is no process group; call init_process_group() first")
    group = dist.group.WORLD if group is None else group
    shards = Owners(group)
    shards.find(optimizer, names, list(optimizer._buckets()))
    if model is not None:
        register(_WHO, model, ToOwners(shards.owners, group))
    optimizer._shards, optimizer._repeat = shards, None
    return optimizer


def _check_leaves(who: str, names: Mapping[Tensor, str]) -> None:
    for p, name in names.items():
        if is_distributed(p):
            raise ValueError(
                f"{_WHO}: leaf {name!r} of this {who} is a DTensor, whose state is shared out as "
                "it is; use the optimizer without zero1"
            )


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(map(is_, a, b))
