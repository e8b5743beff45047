"""A transform inside another one, whose updates come from compiled passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import is_
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from ...core import tree
from ...core.protocol import GradientTransformation, Wrapper, members
from ...core.tree import PyTree
from ..frontend.forms import Form
from ..frontend.trace import factor_shape
from ..ir.errors import CannotFuseError
from ..ir.graph import Input
from .batch import Batch, HyperNames
from .plan import AT_ONCE, LaunchPlan

Sizes: TypeAlias = "list[tuple[int, tuple[int, ...]]]"


class Binder(Protocol):
    """What an ``Engine`` does for ``Inside``."""

    tx: GradientTransformation
    hyper: HyperNames

    def gather(self, *args: Any) -> Batch:
        """The leaves of trees as lists."""

    def bind(self, batch: Batch) -> Any:
        """Tables for them."""


class Inside(GradientTransformation):
    """The same transform for executors: it overwrites its state.

    The compiled step writes updates where it would have parameters. Whatever cannot be fused runs
    as it is. Matrices may get a number a row, a number a column or one number in place of updates.

    Args:
        engine: of the transform.
    """

    def __init__(self, engine: Binder) -> None:
        self._engine = engine
        self._last: tuple[Any, list[Tensor], Batch, LaunchPlan, Sizes] | None = None
        self._refused: Any = None  # the structure of trees that cannot be fused

    @property
    def name(self) -> str:
        return self._engine.tx.name

    @property
    def inner(self) -> Mapping[str, GradientTransformation]:
        return self._engine.tx.inner

    def init(self, params: PyTree) -> PyTree:
        return self._engine.tx.init(params)

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        us, spec = tree.flatten(updates)
        given = {k: v for k, v in extra.items() if k not in ("grads", "hyper")}
        plain = all(isinstance(v, Tensor) and not v.ndim for v in given.values())
        if not plain or spec == self._refused:
            return self._engine.tx.update(updates, state, params, **extra)
        outs: list[Any] = [
            None if u is None else torch.empty_like(u, memory_format=torch.contiguous_format)
            for u in us
        ]
        try:
            plan, batch, sizes = self._plan(spec, us, outs, state, extra.get("hyper"), given)
        except CannotFuseError:
            self._refused = spec
            return self._engine.tx.update(updates, state, params, **extra)
        plan.run(batch)
        for i, size in sizes:
            outs[i] = outs[i].view(-1)[: math.prod(size)].view(size)
        plan.forget()
        return spec.unflatten(outs), state

    def _plan(
        self,
        spec: Any,
        us: list[Any],
        outs: list[Any],
        state: PyTree,
        hyper: Mapping[str, Any] | None,
        extra: Mapping[str, Tensor],
    ) -> tuple[LaunchPlan, Batch, Sizes]:
        """The tables for a call, those of the last one if it had the same state."""
        states, _ = tree.flatten(state)
        there = [i for i, u in enumerate(us) if u is not None]
        if self._last is not None:
            old_spec, old_states, batch, plan, sizes = self._last
            if (
                old_spec == spec
                and batch.positions == there
                and len(old_states) == len(states)
                and all(map(is_, old_states, states))
            ):
                rows, by_leaf = self._engine.hyper.rows(hyper, spec, there)
                batch = replace(
                    batch,
                    params=[outs[i] for i in there],
                    grads=[us[i] for i in there],
                    hyper=rows,
                    rows=by_leaf,
                    extra=extra,
                )
                if plan.fits_others(batch):
                    plan.move(batch)
                    return plan, batch, sizes
        batch = self._engine.gather(spec.unflatten(outs), spec.unflatten(us), state, hyper, extra)
        found = self._engine.bind(batch)
        whole = isinstance(found, LaunchPlan) and found.strategy is AT_ONCE
        if not whole or not all(segment.fused for segment in found.cut):
            raise CannotFuseError("", "some of it runs as torch operations")
        sizes = _sizes(found, batch)
        self._last = spec, states, replace(batch, params=[], grads=[], extra={}), found, sizes
        return found, batch, sizes


def _sizes(plan: LaunchPlan, batch: Batch) -> Sizes:
    """The shapes of what is no updates, and whose they are."""
    kernels, out = plan.kernels[plan.cut[-1], "all"], []
    for i, kind, p in zip(batch.positions, plan.kinds, batch.params, strict=True):
        form = kernels[kind].graph.form_of(Input("update"))
        if form != "element" and p.numel() > 1:  # of one element all forms are one
            out.append((i, factor_shape(Form(form), tuple(p.shape))))
    return out


def fused_inside(
    member: GradientTransformation, engine: Callable[..., Binder]
) -> GradientTransformation:
    """A member with what it wraps as ``Inside``, if its updates do not need parameters."""
    wrapped = getattr(member, "transform", None)
    if not isinstance(member, Wrapper) or wrapped is None:
        return member
    if any(getattr(m, "requires_params", False) for _, m in members(wrapped)):
        return member
    return replace(member, transform=Inside(engine(wrapped, blind=True)))
