"""Drop update entries that point against the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..core.hyper import Values, static
from ..core.transform import LeafTransform


@dataclass(frozen=True)
class cautious_mask(LeafTransform):
    """Zero the entries of an update whose sign differs from the gradient's.

    mask = (u * g > 0); update = u * mask, divided by max(mean(mask), 0.001) if ``rescale``.
    Put it after the moments; the gradient is what entered the outermost chain.

    Args:
        rescale: keep the mean size of the update.

    Raises:
        ValueError: used outside a chain without ``grads=``.

    Source: arXiv 2411.16085.

    >>> import torch, gradtx as gx
    >>> tx = gx.cautious_mask(rescale=False)
    >>> tx.update({"w": torch.tensor([1.0, -1.0])}, (), grads={"w": torch.ones(2)})[0]
    {'w': tensor([1., -0.])}
    """

    needs_grad: ClassVar[bool] = True

    rescale: bool = static(True)

    def update_leaf(self, u: Tensor, s: Any, p: Tensor | None, h: Values) -> tuple[Tensor, Any]:
        mask = (u * h.grad > 0).to(u.dtype)
        if self.rescale:
            mask = mask / mask.mean().clamp(min=1e-3)
        return u * mask, s
