"""A limit on how fast the norm of updates grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import LeafInfo
from ..core.roots import root
from ..core.transform import LeafTransform
from ..core.tree import accumulator_dtype, squared_norm


class NormGrowthState(NamedTuple):
    """Attributes: ``norm``, of the last update that left; 0 before the first."""

    norm: Tensor


@dataclass(frozen=True)
class limit_norm_growth(LeafTransform):
    """Scale every leaf's update down where its norm has grown by more than a factor.

    l = max(||u|| / (norm + norm_eps), growth) / growth;  u <- u / l;  norm <- ||u|| / l. The first
    update, and one after updates no larger than ``norm_eps``, passes as it is.

    Args:
        growth: largest ratio of the norms of two updates in a row, > 0.
        norm_eps: added to the norm, >= 0.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2410.01623.

    >>> import torch, gradtx as gx
    >>> tx = gx.limit_norm_growth(1.5, norm_eps=0.0)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> for size in (2.0, 5.0):
    ...     updates, state = tx.update({"w": torch.tensor([size])}, state)
    >>> updates
    {'w': tensor([3.])}
    """

    growth: Hyper = dynamic(1.01, within="(0, inf)")
    norm_eps: Hyper = dynamic(1e-8, within="[0, inf)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> NormGrowthState:
        return NormGrowthState(p.new_zeros((), dtype=accumulator_dtype(p.dtype)))

    def update_leaf(
        self, u: Tensor, s: NormGrowthState, p: Any, h: Values
    ) -> tuple[Tensor, NormGrowthState]:
        old = s.norm.to(u.dtype)
        norm = root(squared_norm(u))
        known = old > h.norm_eps
        ratio = norm / torch.where(known, old + h.norm_eps, 1.0)
        limit = torch.where(known & ~(ratio <= h.growth), ratio / h.growth, 1.0)
        return u / limit, NormGrowthState(norm / limit)
