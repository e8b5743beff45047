"""Polyak's step size: how far the loss is from its minimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic, static
from ..core.reduce import Reduce
from ..core.transform import TreeTransform
from ..core.tree import squared_norm, total


@dataclass(frozen=True)
class scale_by_polyak(TreeTransform):
    """Multiply by the gap between the loss and its minimum over the squared norm.

    update = min((f - f_min) / (||u||^2 + eps), max_step) u; nothing where the norm is zero.

    Args:
        max_step: largest factor, >= 0.
        f_min: the least value of the loss.
        eps: added to the squared norm, >= 0.
        variant: "sps", or "sps+" for a gap that is not below zero.

    Raises:
        ValueError: a value outside its range, or no ``value`` at ``update``.

    Source: arXiv 2002.10542.

    >>> import torch, gradtx as gx
    >>> tx, grads = gx.scale_by_polyak(), {"w": torch.full((1,), 4.0)}
    >>> tx.update(grads, tx.init(grads), value=torch.tensor(8.0))[0]
    {'w': tensor([2.])}
    """

    needs_value: ClassVar[bool] = True

    max_step: Hyper = dynamic(1.0, within="[0, inf)")
    f_min: Hyper = dynamic(0.0)
    eps: Hyper = dynamic(0.0, within="[0, inf)")
    variant: Literal["sps", "sps+"] = static("sps")

    def update_tree(
        self,
        us: list[Tensor],
        leaves: list[Any] | None,
        shared: Any,
        ps: list[Any],
        h: Values,
        reduce: Reduce,
    ) -> tuple[list[Tensor], list[Any] | None, Any]:
        size = reduce.sum(total([squared_norm(u) for u in us])) + h.eps
        gap = torch.as_tensor(h.value - h.f_min, dtype=size.dtype, device=size.device)
        if self.variant == "sps+":
            gap = torch.clamp(gap, min=0)
        flat = size <= torch.finfo(torch.float64).eps
        wanted = torch.clamp(gap / torch.where(flat, 1.0, size), max=h.max_step)
        step = torch.where(flat, 0.0, wanted)
        return [u * step.to(u) for u in us], leaves, shared
