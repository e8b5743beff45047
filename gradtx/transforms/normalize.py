"""Bring updates to a common size or to mean zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic
from ..core.reduce import Reduce
from ..core.roots import divide, divide_by_sum, root
from ..core.sums import element_mean, mean_over
from ..core.transform import LeafTransform, TreeTransform
from ..core.tree import squared_norm, total


@dataclass(frozen=True)
class normalize_by_update_norm(TreeTransform):
    """Divide all updates by their joint norm: ``u <- scale_factor * u / (|u| + eps)``.

    The norm is Euclidean, over every leaf of the tree.

    Args:
        scale_factor: the norm that updates get (a negative one turns them around).
        eps: added to the norm, >= 0.

    Raises:
        ValueError: a negative ``eps``.

    >>> import torch, gradtx as gx
    >>> grads = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    >>> gx.normalize_by_update_norm(eps=0.0).update(grads, ())[0]
    {'a': tensor([0.6000]), 'b': tensor([0.8000])}
    """

    scale_factor: Hyper = dynamic(1.0)
    eps: Hyper = dynamic(1e-6, within="[0, inf)")

    def update_tree(
        self,
        us: list[Tensor],
        leaves: list[Any] | None,
        shared: Any,
        ps: list[Any],
        h: Values,
        reduce: Reduce,
    ) -> tuple[list[Tensor], list[Any] | None, Any]:
        norm = root(reduce.sum(total([squared_norm(u) for u in us])))
        factor = divide(h.scale_factor * torch.ones_like(norm), norm + h.eps)
        return [u * factor.to(u.device, u.dtype) for u in us], leaves, shared


@dataclass(frozen=True)
class normalize_by_block_rms(LeafTransform):
    """Divide every leaf's update by its root mean square: ``u <- u / (sqrt(mean(u^2)) + eps)``.

    Args:
        eps: added to the root, >= 0.

    Raises:
        ValueError: a negative ``eps``.

    >>> import torch, gradtx as gx
    >>> gx.normalize_by_block_rms().update({"w": torch.tensor([-3.0, 3.0])}, ())[0]
    {'w': tensor([-1.,  1.])}
    """

    eps: Hyper = dynamic(1e-30, within="[0, inf)")

    def update_leaf(self, u: Tensor, s: Any, p: Tensor | None, h: Values) -> tuple[Tensor, Any]:
        return divide_by_sum(u, root(element_mean(u.square())).to(u.dtype), h.eps), s


@dataclass(frozen=True)
class centralize(LeafTransform):
    """Subtract from every row of an update its mean over all other dimensions.

    Rows are slices along the first dimension; vectors and scalars stay as they are.

    Source: arXiv 2004.01461.

    >>> import torch, gradtx as gx
    >>> gx.centralize().update({"w": torch.tensor([[1.0, 3.0], [2.0, 2.0]])}, ())[0]["w"].tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """

    def update_leaf(self, u: Tensor, s: Any, p: Tensor | None, h: Values) -> tuple[Tensor, Any]:
        if u.ndim < 2:
            return u, s
        return u - mean_over(u, tuple(range(1, u.ndim))), s
