"""A step that does not let parameters grow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic
from ..core.transform import LeafTransform


@dataclass(frozen=True)
class contracted_step(LeafTransform):
    """A step of the learning rate, after which parameters shrink by as much as it made them grow.

    The update moves p to ``(p - lr u) / sqrt(1 + lr^2)``: where u is orthogonal to p and as long,
    the norm stays.

    Args:
        lr: learning rate >= 0, or a schedule.

    Raises:
        ValueError: a negative learning rate, or no parameters given to ``update``.

    Source: arXiv 2002.03432.

    >>> import torch, gradtx as gx
    >>> params = {"w": torch.tensor([5.0, 0.0])}
    >>> gx.contracted_step(0.75).update({"w": torch.tensor([0.0, 5.0])}, (), params)[0]
    {'w': tensor([-1., -3.])}
    """

    requires_params: ClassVar[bool] = True

    lr: Hyper = dynamic(within="[0, inf)")

    def update_leaf(self, u: Tensor, s: Any, p: Tensor, h: Values) -> tuple[Tensor, Any]:
        square = 1 + h.lr * h.lr
        length = torch.sqrt(square) if isinstance(square, Tensor) else square**0.5
        # 1 / length - 1 without cancellation.
        shrink = -h.lr * h.lr / (length * (1 + length))
        return shrink * p - h.lr / length * u, s
