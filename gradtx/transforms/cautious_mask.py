"""Drop update entries that point against the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..core.hyper import Values, static
from ..core.sums import element_mean, element_sum
from ..core.transform import LeafTransform


@dataclass(frozen=True)
class cautious_mask(LeafTransform):
    """Zero the entries of an update whose sign differs from the gradient's.

    mask = (u * g > 0); update = u * mask, rescaled so that its mean size stays what it was.
    Put it after the moments; the gradient is what entered the outermost chain.

    Args:
        rescale: "mean" divides by max(mean(mask), 0.001), "sum_plus_one" multiplies by
            n / (sum(mask) + 1), None does neither.

    Raises:
        ValueError: an unknown ``rescale``, or used outside a chain without ``grads=``.

    Source: arXiv 2411.16085.

    >>> import torch, gradtx as gx
    >>> tx = gx.cautious_mask()
    >>> tx.update({"w": torch.tensor([1.0, -1.0])}, (), grads={"w": torch.ones(2)})[0]
    {'w': tensor([2., -0.])}
    """

    needs_grad: ClassVar[bool] = True

    rescale: str | None = static("mean", choices=("mean", "sum_plus_one", None))

    def update_leaf(self, u: Tensor, s: Any, p: Tensor | None, h: Values) -> tuple[Tensor, Any]:
        mask = (u * h.grad > 0).to(u.dtype)
        if self.rescale == "mean":
            mask = mask / element_mean(mask).clamp(min=1e-3)
        elif self.rescale == "sum_plus_one":
            mask = mask * (mask.numel() / (element_sum(mask) + 1))
        return u * mask, s
