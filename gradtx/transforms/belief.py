"""AdaBelief: the second moment of the surprise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo
from ..core.state import new_count, state_zeros
from ..core.transform import LeafTransform
from .adam import average, corrected_mean


class ScaleByBeliefState(NamedTuple):
    """State of ``scale_by_belief``.

    Attributes:
        step: int32, updates done for this leaf.
        mu: average of updates, shaped like the parameter.
        nu: average of squared differences between updates and mu.
    """

    step: Tensor
    mu: Tensor
    nu: Tensor


@dataclass(frozen=True)
class scale_by_belief(LeafTransform):
    """Divide the average of updates by how far updates stray from it.

    m <- b1 m + (1 - b1) u;  v <- b2 v + (1 - b2) (u - m)^2 + eps_root;
    update = m' / (sqrt(v / (1 - b2^t)) + eps) with m' as in Adam.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added outside the root.
        eps_root: added to the second moment at every update.
        nesterov: look one step ahead.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2010.07468.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_belief(b1=0.5)
    >>> tx.update({"w": torch.tensor([2.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([2.])}
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1)")
    eps: Hyper = dynamic(1e-16, within="[0, inf)")
    eps_root: Hyper = dynamic(1e-16, within="[0, inf)")
    nesterov: bool = static(False)

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByBeliefState:
        return ScaleByBeliefState(new_count([p]), state_zeros(p), state_zeros(p))

    def update_leaf(
        self, u: Tensor, s: ScaleByBeliefState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByBeliefState]:
        step = s.step + 1
        mu = average(s.mu, u, h.b1)
        surprise = u - mu
        nu = average(s.nu, surprise * surprise, h.b2) + h.eps_root
        root = torch.sqrt(nu / one_minus_power(h.b2, step, u.dtype))
        out = corrected_mean(mu, u, h.b1, step, self.nesterov) / (root + h.eps)
        return out, ScaleByBeliefState(step, mu.to(s.mu.dtype), nu.to(s.nu.dtype))
