"""Scale updates by the size of their parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic
from ..core.roots import floored_root
from ..core.sums import element_mean
from ..core.transform import LeafTransform
from ..core.tree import squared_norm


@dataclass(frozen=True)
class scale_by_param_block_norm(LeafTransform):
    """Multiply every leaf's update by the norm of its parameter: ``u <- u * max(|p|, min_scale)``.

    Args:
        min_scale: smallest factor, >= 0.

    Raises:
        ValueError: a negative ``min_scale``, or no parameters given to ``update``.

    >>> import torch, gradtx as gx
    >>> params = {"w": torch.tensor([3.0, 4.0])}
    >>> gx.scale_by_param_block_norm().update({"w": torch.ones(2)}, (), params)[0]
    {'w': tensor([5., 5.])}
    """

    requires_params: ClassVar[bool] = True

    min_scale: Hyper = dynamic(1e-3, within="[0, inf)")

    def update_leaf(self, u: Tensor, s: Any, p: Tensor, h: Values) -> tuple[Tensor, Any]:
        return u * floored_root(squared_norm(p).to(u.dtype), h.min_scale), s


@dataclass(frozen=True)
class scale_by_param_block_rms(LeafTransform):
    """Multiply every leaf's update by its parameter's root mean square, at least ``min_scale``.

    u <- u * max(sqrt(mean(p^2)), min_scale).

    Args:
        min_scale: smallest factor, >= 0.

    Raises:
        ValueError: a negative ``min_scale``, or no parameters given to ``update``.

    Source: arXiv 1804.04235 (Adafactor's relative step).

    >>> import torch, gradtx as gx
    >>> params = {"w": torch.tensor([3.0, 3.0])}
    >>> gx.scale_by_param_block_rms().update({"w": torch.ones(2)}, (), params)[0]
    {'w': tensor([3., 3.])}
    """

    requires_params: ClassVar[bool] = True

    min_scale: Hyper = dynamic(1e-3, within="[0, inf)")

    def update_leaf(self, u: Tensor, s: Any, p: Tensor, h: Values) -> tuple[Tensor, Any]:
        return u * floored_root(element_mean(p.square()).to(u.dtype), h.min_scale), s
