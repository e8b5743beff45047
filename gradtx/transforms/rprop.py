"""Rprop: one step size an entry, steered by signs alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import LeafInfo
from ..core.signs import sign
from ..core.state import advance, new_count, state_zeros
from ..core.transform import LeafTransform


class ScaleByRpropState(NamedTuple):
    """State of ``scale_by_rprop``.

    Attributes:
        step: int32, updates done.
        step_sizes: size of the next step, shaped like the parameter.
        previous: the last update that came in, zero where it changed its sign.
    """

    step: Tensor
    step_sizes: Tensor
    previous: Tensor


@dataclass(frozen=True)
class scale_by_rprop(LeafTransform):
    """Signs of updates, with step sizes that grow while a sign lasts and shrink when it changes.

    s <- s * eta_plus where u * previous > 0, s * eta_minus where it is < 0, within
    [min_step_size, max_step_size];  update = s * sign(u), zero where the sign changed.

    Args:
        lr: first step size, > 0; it counts at a leaf's first update only.
        eta_minus: factor at a change of sign, in (0, 1).
        eta_plus: factor while the sign lasts, > 1.
        min_step_size: smallest step.
        max_step_size: largest step.

    Raises:
        ValueError: a value outside its interval.

    Source: Riedmiller and Braun, ICNN 1993; the variant without backtracking of Igel and Huesken,
    2000, as in torch.optim.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_rprop(0.5)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.full((1,), -7.0)}, state)
    >>> updates
    {'w': tensor([-0.6000])}
    """

    lr: Hyper = dynamic(within="(0, inf)")
    eta_minus: Hyper = dynamic(0.5, within="(0, 1)")
    eta_plus: Hyper = dynamic(1.2, within="(1, inf)")
    min_step_size: Hyper = dynamic(1e-6, within="[0, inf)")
    max_step_size: Hyper = dynamic(50.0, within="(0, inf)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByRpropState:
        return ScaleByRpropState(new_count([p]), state_zeros(p), state_zeros(p))

    def update_leaf(
        self, u: Tensor, s: ScaleByRpropState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByRpropState]:
        agreement = sign(u) * sign(s.previous.to(u.dtype))
        one = torch.ones_like(u)
        factor = torch.where(agreement > 0, one * h.eta_plus, one)
        factor = torch.where(agreement < 0, one * h.eta_minus, factor)
        sizes = torch.where(s.step == 0, one * h.lr, s.step_sizes.to(u.dtype)) * factor
        sizes = torch.minimum(sizes, one * h.max_step_size)
        sizes = torch.maximum(sizes, one * h.min_step_size)
        kept = torch.where(agreement < 0, torch.zeros_like(u), u)
        return sizes * sign(kept), ScaleByRpropState(
            advance(s.step), sizes.to(s.step_sizes.dtype), kept.to(s.previous.dtype)
        )
