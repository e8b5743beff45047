"""COCOB: coin betting in place of a step size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo
from ..core.roots import divide
from ..core.state import state_full, state_zeros
from ..core.transform import LeafTransform
from ..core.tree import accumulator


class ScaleByCocobState(NamedTuple):
    """State of ``scale_by_cocob``; all shaped like the parameter.

    Attributes:
        p0: the parameter at ``init``.
        total: minus the sum of updates.
        largest: largest absolute update.
        sizes: sum of absolute updates.
        reward: what the bets have won, >= 0.
    """

    p0: Tensor
    total: Tensor
    largest: Tensor
    sizes: Tensor
    reward: Tensor


@dataclass(frozen=True)
class scale_by_cocob(LeafTransform):
    """Move every entry to where a bet on the sign of its gradient puts it.

    L <- max(L, |u|);  G <- G + |u|;  R <- max(R - u (p - p0), 0);  T <- T - u;
    update = p0 + T (L + R) / (L max(G + L, alpha L)) - p. The updates are complete steps.

    Args:
        alpha: bounds the fraction that is bet, >= 0.
        eps: L at the start, > 0.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1705.07795.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.scale_by_cocob(), {"w": torch.zeros(1)}
    >>> tx.update({"w": torch.full((1,), 4.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.0100])}
    """

    requires_params: ClassVar[bool] = True

    alpha: Hyper = dynamic(100.0, within="[0, inf)")
    eps: float = static(1e-8, within="(0, inf)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByCocobState:
        zeros = [state_zeros(p) for _ in range(3)]
        return ScaleByCocobState(
            accumulator(p).clone(), zeros[0], state_full(p, self.eps), zeros[1], zeros[2]
        )

    def update_leaf(
        self, u: Tensor, s: ScaleByCocobState, p: Tensor, h: Values
    ) -> tuple[Tensor, ScaleByCocobState]:
        largest, sizes = torch.maximum(s.largest, u.abs()), s.sizes + u.abs()
        reward = torch.clamp(s.reward - u * (p - s.p0), min=0)
        total = s.total - u
        bet = divide(total, largest * torch.maximum(sizes + largest, h.alpha * largest))
        out = s.p0 + bet * (largest + reward) - p
        return out, ScaleByCocobState(s.p0, total, largest, sizes, reward)
