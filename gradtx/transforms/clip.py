"""Limit the size of updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic
from ..core.reduce import Reduce
from ..core.transform import TreeTransform
from ..core.tree import squared_norm


@dataclass(frozen=True)
class clip_by_global_norm(TreeTransform):
    """Scale all updates down so that their joint Euclidean norm is at most ``max_norm``.

    u <- u * min(1, max_norm / ||u||), the norm taken over every leaf of the tree.

    Args:
        max_norm: largest norm, > 0.

    >>> import torch, gradtx as gx
    >>> grads = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    >>> gx.clip_by_global_norm(1.0).update(grads, ())[0]
    {'a': tensor([0.6000]), 'b': tensor([0.8000])}
    """

    max_norm: Hyper = dynamic(within="(0, inf)")

    def update_tree(
        self,
        us: list[Tensor],
        leaves: list[Any] | None,
        shared: Any,
        ps: list[Any],
        h: Values,
        reduce: Reduce,
    ) -> tuple[list[Tensor], list[Any] | None, Any]:
        total = squared_norm(us[0])
        for u in us[1:]:
            total = total + squared_norm(u).to(total.device)
        norm = reduce.sum(total).sqrt()
        factor = torch.where(norm > h.max_norm, h.max_norm / norm, torch.ones_like(norm))
        return [u * factor.to(u.device, u.dtype) for u in us], leaves, shared
