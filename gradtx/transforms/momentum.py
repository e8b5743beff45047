"""Sums and averages of past updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo
from ..core.state import new_count, state_zeros
from ..core.transform import LeafTransform
from .adam import average


class TraceState(NamedTuple):
    """Attributes: ``trace``, the decayed sum of updates, shaped like the parameter."""

    trace: Tensor


@dataclass(frozen=True)
class trace(LeafTransform):
    """Heavy-ball momentum: ``t <- u + decay * t``.

    The update is t, or ``u + decay * t`` with Nesterov.

    Args:
        decay: how much of the sum is kept, in [0, 1].
        nesterov: look one step ahead.
        accumulator_dtype: dtype of the sum; default float32, float64 for float64 parameters.

    >>> import torch, gradtx as gx
    >>> tx = gx.trace(0.9)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.ones(1)}, state)
    >>> updates
    {'w': tensor([1.9000])}
    """

    decay: Hyper = dynamic(within="[0, 1]")
    nesterov: bool = static(False)
    accumulator_dtype: torch.dtype | None = static(None)

    def init_leaf(self, p: Tensor, info: LeafInfo) -> TraceState:
        return TraceState(state_zeros(p, self.accumulator_dtype))

    def update_leaf(
        self, u: Tensor, s: TraceState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, TraceState]:
        decay = h.decay
        new = u + decay * s.trace.to(u.dtype)
        out = u + decay * new if self.nesterov else new
        return out, TraceState(new.to(s.trace.dtype))


class DampedTraceState(NamedTuple):
    """State of ``damped_trace``.

    Attributes:
        step: int32, updates done for this leaf.
        trace: the decayed sum of updates, shaped like the parameter.
    """

    step: Tensor
    trace: Tensor


@dataclass(frozen=True)
class damped_trace(LeafTransform):
    """Heavy-ball momentum that adds only a part of every update but the first.

    t <- u at the first update, then t <- decay * t + (1 - dampening) * u; the update is t.
    This is the momentum of ``torch.optim.SGD`` with dampening.

    Args:
        decay: how much of the sum is kept, in [0, 1].
        dampening: the part of later updates that is left out, in [0, 1].
        accumulator_dtype: dtype of the sum; default float32, float64 for float64 parameters.

    >>> import torch, gradtx as gx
    >>> tx = gx.damped_trace(0.5, dampening=0.9)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.ones(1)}, state)
    >>> updates
    {'w': tensor([0.6000])}
    """

    decay: Hyper = dynamic(within="[0, 1]")
    dampening: Hyper = dynamic(within="[0, 1]")
    accumulator_dtype: torch.dtype | None = static(None)

    def init_leaf(self, p: Tensor, info: LeafInfo) -> DampedTraceState:
        return DampedTraceState(new_count([p]), state_zeros(p, self.accumulator_dtype))

    def update_leaf(
        self, u: Tensor, s: DampedTraceState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, DampedTraceState]:
        later = h.decay * s.trace.to(u.dtype) + (1 - h.dampening) * u
        new = torch.where(s.step == 0, u, later)
        return new, DampedTraceState(s.step + 1, new.to(s.trace.dtype))


class EmaState(NamedTuple):
    """State of ``ema``.

    Attributes:
        step: int32, updates done for this leaf; () without debiasing.
        ema: average of updates, shaped like the parameter.
    """

    step: Tensor | tuple[()]
    ema: Tensor


@dataclass(frozen=True)
class ema(LeafTransform):
    """Exponential moving average of updates: ``m <- decay * m + (1 - decay) * u``.

    The update is m, divided by ``1 - decay^t`` if ``debias``.

    Args:
        decay: how much of the average is kept, in [0, 1).
        debias: correct for the average having started at zero.
        accumulator_dtype: dtype of the average; default float32, float64 for float64 parameters.

    >>> import torch, gradtx as gx
    >>> tx = gx.ema(0.9, debias=False)
    >>> tx.update({"w": torch.ones(1)}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([0.1000])}
    """

    decay: Hyper = dynamic(within="[0, 1)")
    debias: bool = static(True)
    accumulator_dtype: torch.dtype | None = static(None)

    def init_leaf(self, p: Tensor, info: LeafInfo) -> EmaState:
        step = new_count([p]) if self.debias else ()
        return EmaState(step, state_zeros(p, self.accumulator_dtype))

    def update_leaf(
        self, u: Tensor, s: EmaState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, EmaState]:
        new = average(s.ema, u, h.decay)
        if not isinstance(s.step, Tensor):
            return new, EmaState((), new.to(s.ema.dtype))
        step = s.step + 1
        return new / one_minus_power(h.decay, step, u.dtype), EmaState(step, new.to(s.ema.dtype))
