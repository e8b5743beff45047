"""MARS: variance reduction of gradients by scaled differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import LeafInfo
from ..core.roots import clipping
from ..core.state import advance, new_count, state_zeros
from ..core.transform import LeafTransform
from ..core.tree import squared_norm


class MarsState(NamedTuple):
    """State of ``mars``.

    Attributes:
        step: int32, updates done for this leaf.
        previous: the last update that came in, shaped like the parameter.
    """

    step: Tensor
    previous: Tensor


@dataclass(frozen=True)
class mars(LeafTransform):
    """Correct gradients by the change since the last step, before they enter the moments.

    c = u + gamma b1 / (1 - b1) (u - u_previous), without the correction at the first update;
    update = c * min(1, max_norm / ||c||), the norm taken per leaf.
    The previous gradient is the one of the previous batch (the published "approximate" form), so
    no second backward pass is needed.

    Args:
        gamma: strength of the correction, >= 0.
        b1: decay of the first moment that follows, in [0, 1).
        max_norm: largest norm of a leaf's corrected update, > 0.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2411.10438.

    >>> import torch, gradtx as gx
    >>> tx = gx.mars(gamma=0.5, b1=0.5)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> for g in (0.25, 0.5):
    ...     updates, state = tx.update({"w": torch.tensor([g])}, state)
    >>> updates  # 0.5 + 0.5 (0.5 - 0.25)
    {'w': tensor([0.6250])}
    """

    gamma: Hyper = dynamic(0.025, within="[0, inf)")
    b1: Hyper = dynamic(0.95, within="[0, 1)")
    max_norm: Hyper = dynamic(1.0, within="(0, inf)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> MarsState:
        return MarsState(new_count([p]), state_zeros(p))

    def update_leaf(
        self, u: Tensor, s: MarsState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, MarsState]:
        change = torch.where(s.step == 0, torch.zeros_like(u), u - s.previous.to(u.dtype))
        corrected = u + h.gamma * (h.b1 / (1 - h.b1)) * change
        factor = clipping(squared_norm(corrected), h.max_norm)
        return corrected * factor, MarsState(advance(s.step), u.to(s.previous.dtype))
