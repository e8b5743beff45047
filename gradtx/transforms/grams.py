"""The size of the momentum in the direction of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..core.hyper import Values
from ..core.signs import sign
from ..core.transform import LeafTransform


@dataclass(frozen=True)
class grams(LeafTransform):
    """Give every entry of an update the sign of the gradient: ``sign(g) |u|``.

    Put it after the first moment; the gradient is what entered the outermost chain.

    Raises:
        ValueError: used outside a chain without ``grads=``.

    Source: arXiv 2412.17107.

    >>> import torch, gradtx as gx
    >>> grads = {"w": torch.tensor([-2.0, 0.0])}
    >>> gx.grams().update({"w": torch.tensor([1.0, 1.0])}, (), grads=grads)[0]
    {'w': tensor([-1.,  0.])}
    """

    needs_grad: ClassVar[bool] = True

    def update_leaf(self, u: Tensor, s: Any, p: Tensor | None, h: Values) -> tuple[Tensor, Any]:
        return sign(h.grad) * u.abs(), s
