"""Adam with the infinity norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import LeafInfo
from ..core.state import new_count, state_zeros
from ..core.transform import LeafTransform
from .adam import average, corrected_mean


class ScaleByAdamaxState(NamedTuple):
    """State of ``scale_by_adamax``.

    Attributes:
        step: int32, updates done for this leaf.
        mu: average of updates, shaped like the parameter.
        nu: decaying maximum of absolute updates.
    """

    step: Tensor
    mu: Tensor
    nu: Tensor


@dataclass(frozen=True)
class scale_by_adamax(LeafTransform):
    """Divide the average of updates by the decaying maximum of their absolute values.

    m <- b1 m + (1 - b1) u;  v <- max(b2 v, |u| + eps);  update = m / ((1 - b1^t) v).

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the maximum, in [0, 1).
        eps: added to the absolute updates.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1412.6980, section 7.1.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_adamax(eps=2.0)
    >>> tx.update({"w": torch.tensor([2.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([0.5000])}
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1)")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByAdamaxState:
        return ScaleByAdamaxState(new_count([p]), state_zeros(p), state_zeros(p))

    def update_leaf(
        self, u: Tensor, s: ScaleByAdamaxState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByAdamaxState]:
        step = s.step + 1
        mu = average(s.mu, u, h.b1)
        nu = torch.maximum(h.b2 * s.nu.to(u.dtype), u.abs() + h.eps)
        out = corrected_mean(mu, u, h.b1, step) / nu
        return out, ScaleByAdamaxState(step, mu.to(s.mu.dtype), nu.to(s.nu.dtype))
