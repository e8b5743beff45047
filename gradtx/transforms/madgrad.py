"""MADGRAD: dual averaging with a cube root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import LeafInfo
from ..core.parts import power
from ..core.roots import divide
from ..core.state import advance, new_count, state_zeros
from ..core.transform import LeafTransform
from ..core.tree import accumulator


class ScaleByMadgradState(NamedTuple):
    """State of ``scale_by_madgrad``.

    Attributes:
        step: int32, updates done for this leaf.
        squares: weighted sum of squared updates.
        total: weighted sum of updates.
        p0: the parameter at ``init``.
    """

    step: Tensor
    squares: Tensor
    total: Tensor
    p0: Tensor


@dataclass(frozen=True)
class scale_by_madgrad(LeafTransform):
    """Dual averaging from the start, divided by the cube root of summed squares, with momentum.

    c = (lr + eps) sqrt(t);  G <- G + c u^2;  S <- S + c u;  z = p0 - S / (G^(1/3) + eps);
    update = (1 - momentum) (z - p). The updates are complete steps.

    Args:
        lr: learning rate >= 0, or a schedule.
        momentum: how much of the old parameters stays, in [0, 1).
        eps: added to the cube root and to the learning rate.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2101.11075.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.scale_by_madgrad(1.0, momentum=0.0), {"w": torch.zeros(1)}
    >>> tx.update({"w": torch.full((1,), 8.0)}, tx.init(params), params)[0]
    {'w': tensor([-2.0000])}
    """

    requires_params: ClassVar[bool] = True

    lr: Hyper = dynamic(within="[0, inf)")
    momentum: Hyper = dynamic(0.9, within="[0, 1)")
    eps: Hyper = dynamic(1e-6, within="[0, inf)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByMadgradState:
        start = accumulator(p).clone()
        return ScaleByMadgradState(new_count([p]), state_zeros(p), state_zeros(p), start)

    def update_leaf(
        self, u: Tensor, s: ScaleByMadgradState, p: Tensor, h: Values
    ) -> tuple[Tensor, ScaleByMadgradState]:
        step = advance(s.step)
        weight = (h.lr + h.eps) * torch.sqrt(step.to(u.dtype))
        squares, total = s.squares + weight * u * u, s.total + weight * u
        z = s.p0 - divide(total, _cube_root(squares) + h.eps)
        out = (1 - h.momentum) * (z - p)
        return out, ScaleByMadgradState(step, squares, total, s.p0)


def _cube_root(x: Tensor) -> Tensor:
    """Of what is not negative, with derivative zero at zero."""
    zero = x == 0
    return torch.where(zero, 0.0, power(torch.where(zero, 1.0, x), 1 / 3))
