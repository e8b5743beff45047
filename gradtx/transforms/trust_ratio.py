"""The layer-wise trust ratio of LARS and LAMB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic
from ..core.roots import floored_root
from ..core.transform import LeafTransform
from ..core.tree import squared_norm


@dataclass(frozen=True)
class scale_by_trust_ratio(LeafTransform):
    """Give every leaf's update a norm proportional to the norm of its parameter.

    u <- u * trust_coefficient * |p| / (|u| + eps) with Euclidean norms of the whole leaf, both at
    least ``min_norm``. Where either norm is zero the update is left as it is.

    Args:
        min_norm: lower bound of both norms, >= 0.
        trust_coefficient: the ratio of norms, >= 0.
        eps: added to the norm of the update, >= 0.

    Raises:
        ValueError: a value outside its interval, or no parameters given to ``update``.

    Source: arXiv 1708.03888 (LARS), 1904.00962 (LAMB).

    >>> import torch, gradtx as gx
    >>> params = {"w": torch.tensor([6.0, 8.0])}
    >>> gx.scale_by_trust_ratio().update({"w": torch.tensor([0.0, 2.0])}, (), params)[0]
    {'w': tensor([ 0., 10.])}
    """

    requires_params: ClassVar[bool] = True

    min_norm: Hyper = dynamic(0.0, within="[0, inf)")
    trust_coefficient: Hyper = dynamic(1.0, within="[0, inf)")
    eps: Hyper = dynamic(0.0, within="[0, inf)")

    def update_leaf(self, u: Tensor, s: Any, p: Tensor, h: Values) -> tuple[Tensor, Any]:
        size = floored_root(squared_norm(p).to(u.dtype), h.min_norm)
        length = floored_root(squared_norm(u), h.min_norm)
        zero = (size == 0) | (length == 0)
        one = torch.ones_like(length)
        # The inner choice keeps a division by zero out of derivatives through the update.
        ratio = size / torch.where(zero, one, length + h.eps)
        return u * torch.where(zero, one, h.trust_coefficient * ratio), s
