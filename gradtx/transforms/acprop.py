"""ACProp: a denominator that does not know the present gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.averages import average
from ..core.hyper import Hyper, Values, dynamic, one_minus_power
from ..core.leaves import LeafInfo
from ..core.roots import divide_by_root
from ..core.state import advance, new_count, state_zeros
from ..core.transform import LeafTransform


class ScaleByAcpropState(NamedTuple):
    """State of ``scale_by_acprop``.

    Attributes:
        step: int32, updates done for this leaf.
        mu: average of updates.
        nu: average of squared deviations from it.
    """

    step: Tensor
    mu: Tensor
    nu: Tensor


@dataclass(frozen=True)
class scale_by_acprop(LeafTransform):
    """Divide by the root of the variance as it was before this update.

    update = u / (sqrt(v_old / (1 - b2^(t-1))) + eps), u / (1 + eps) at the first update;
    v <- b2 v + (1 - b2) (u - m)^2 + eps_root;  m <- b1 m + (1 - b1) u.

    Args:
        b1: decay of the mean, in [0, 1).
        b2: decay of the variance, in [0, 1).
        eps: added to the root.
        eps_root: added to the variance at every update.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2110.05454.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.scale_by_acprop(), {"w": torch.zeros(1)}
    >>> tx.update({"w": torch.full((1,), 4.0)}, tx.init(params), params)[0]
    {'w': tensor([4.])}
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1)")
    eps: Hyper = dynamic(1e-16, within="[0, inf)")
    eps_root: Hyper = dynamic(1e-16, within="[0, inf)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByAcpropState:
        return ScaleByAcpropState(new_count([p]), state_zeros(p), state_zeros(p))

    def update_leaf(
        self, u: Tensor, s: ScaleByAcpropState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByAcpropState]:
        first = s.step == 0
        before = torch.where(first, 1, s.step)
        variance = torch.where(first, 1.0, s.nu / one_minus_power(h.b2, before, u.dtype))
        nu = average(s.nu, (u - s.mu) ** 2, h.b2) + h.eps_root
        out = divide_by_root(u, variance, h.eps)
        return out, ScaleByAcpropState(advance(s.step), average(s.mu, u, h.b1), nu)
