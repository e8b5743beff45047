"""Sums and averages of past updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo
from ..core.state import state_zeros
from ..core.transform import LeafTransform


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
        new = u + h.decay * s.trace.to(u.dtype)
        out = u + h.decay * new if self.nesterov else new
        return out, TraceState(new.to(s.trace.dtype))
