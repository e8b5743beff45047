"""Optimistic gradients: a step ahead along the last change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import LeafInfo
from ..core.state import advance, new_count, state_zeros
from ..core.transform import LeafTransform


class ScaleByOptimisticGradientState(NamedTuple):
    """State of ``scale_by_optimistic_gradient``.

    Attributes:
        step: int32, updates done for this leaf.
        previous: the last update that came in, shaped like the parameter.
    """

    step: Tensor
    previous: Tensor


@dataclass(frozen=True)
class scale_by_optimistic_gradient(LeafTransform):
    """Add the change since the last update: ``(alpha + beta) u - beta u_previous``.

    At the first update u_previous is u.

    Args:
        alpha: weight of the update.
        beta: weight of the change.

    Source: arXiv 1901.08511.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_optimistic_gradient()
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> for g in (1.0, 3.0):
    ...     updates, state = tx.update({"w": torch.full((1,), g)}, state)
    >>> updates
    {'w': tensor([5.])}
    """

    alpha: Hyper = dynamic(1.0)
    beta: Hyper = dynamic(1.0)

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByOptimisticGradientState:
        return ScaleByOptimisticGradientState(new_count([p]), state_zeros(p))

    def update_leaf(
        self, u: Tensor, s: ScaleByOptimisticGradientState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByOptimisticGradientState]:
        previous = torch.where(s.step == 0, u, s.previous.to(u.dtype))
        beta = h.beta
        out = (h.alpha + beta) * u - beta * previous
        return out, ScaleByOptimisticGradientState(advance(s.step), u.to(s.previous.dtype))
