"""Gradients without the part along the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.hyper import Values
from ..core.roots import root
from ..core.transform import LeafTransform
from ..core.tree import squared_norm, vdot


@dataclass(frozen=True)
class orthogonalize_grad(LeafTransform):
    """OrthoGrad: take from every leaf's gradient its projection on the leaf, keep its norm.

    o = g - (<w, g> / <w, w>) w;  update = o ||g|| / ||o||. A leaf with one element and one that is
    zero keep their gradient; where ||o|| < 1e-5 ||g|| only rounding is left, so the update is zero.
    Use it first in a chain, the rest inside ``gx.as_gradients`` if it has a mask.

    Raises:
        ValueError: no parameters given to ``update``.

    Source: arXiv 2501.04697.

    >>> import torch, gradtx as gx
    >>> params, grads = {"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([3.0, 4.0])}
    >>> gx.orthogonalize_grad().update(grads, (), params)[0]
    {'w': tensor([5., 0.])}
    """

    requires_params: ClassVar[bool] = True

    def update_leaf(self, u: Tensor, s: Any, p: Any, h: Values) -> tuple[Tensor, Any]:
        if u.numel() < 2:
            return u, s
        share = vdot(p, u) / (squared_norm(p) + 1e-30)
        rest = u - share.to(u.dtype) * p
        size, kept = root(squared_norm(u)), root(squared_norm(rest))
        ratio = torch.where(kept < 1e-5 * size, torch.zeros_like(size), size / (kept + 1e-30))
        return rest * ratio.to(u.dtype), s
