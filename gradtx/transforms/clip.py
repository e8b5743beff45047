"""Limit the size of updates: by entry, by leaf, by unit or all together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic, static
from ..core.reduce import Reduce
from ..core.roots import clipping, floored_root, root
from ..core.sums import element_mean, element_sum, sum_over
from ..core.transform import LeafTransform, TreeTransform
from ..core.tree import squared_norm, total


@dataclass(frozen=True)
class clip(LeafTransform):
    """Limit every entry of an update to ``[-max_delta, max_delta]``.

    Args:
        max_delta: largest absolute value, >= 0.

    Raises:
        ValueError: a negative ``max_delta``.

    >>> import torch, gradtx as gx
    >>> gx.clip(1.0).update({"w": torch.tensor([-3.0, 0.5])}, ())[0]
    {'w': tensor([-1.0000,  0.5000])}
    """

    max_delta: Hyper = dynamic(within="[0, inf)")

    def update_leaf(self, u: Tensor, s: Any, p: Tensor | None, h: Values) -> tuple[Tensor, Any]:
        bound = h.max_delta
        return torch.clamp(u, -bound, bound), s


@dataclass(frozen=True)
class clip_by_leaf_norm(LeafTransform):
    """Scale every leaf's update down so that its Euclidean norm is at most ``max_norm``.

    u <- u max_norm / max(||u||, max_norm).

    Args:
        max_norm: largest norm, > 0.

    Raises:
        ValueError: ``max_norm`` is not positive.

    >>> import torch, gradtx as gx
    >>> gx.clip_by_leaf_norm(1.0).update({"w": torch.tensor([-3.0, 4.0])}, ())[0]
    {'w': tensor([-0.6000,  0.8000])}
    """

    max_norm: Hyper = dynamic(within="(0, inf)")

    def update_leaf(self, u: Tensor, s: Any, p: Tensor | None, h: Values) -> tuple[Tensor, Any]:
        return u * clipping(squared_norm(u), h.max_norm).to(u.dtype), s


@dataclass(frozen=True)
class clip_by_block_rms(LeafTransform):
    """Scale every leaf's update down so that its root mean square is at most ``threshold``.

    u <- u / max(1, sqrt(mean(u^2)) / threshold).

    Args:
        threshold: largest root mean square, > 0.

    Raises:
        ValueError: ``threshold`` is not positive.

    Source: arXiv 1804.04235.

    >>> import torch, gradtx as gx
    >>> gx.clip_by_block_rms(1.0).update({"w": torch.tensor([-3.0, 3.0])}, ())[0]
    {'w': tensor([-1.,  1.])}
    """

    threshold: Hyper = dynamic(within="(0, inf)")

    def update_leaf(self, u: Tensor, s: Any, p: Tensor | None, h: Values) -> tuple[Tensor, Any]:
        return u * clipping(element_mean(u.square()), h.threshold).to(u.dtype), s


@dataclass(frozen=True)
class clip_by_global_norm(TreeTransform):
    """Scale all updates down so that their joint Euclidean norm is at most ``max_norm``.

    u <- u * min(1, max_norm / (||u|| + eps)), the norm taken over every leaf of the tree.

    Args:
        max_norm: largest norm, > 0.
        eps: added to the norm, >= 0; ``torch.nn.utils.clip_grad_norm_`` has 1e-6.

    Raises:
        ValueError: ``max_norm`` is not positive, or ``eps`` negative.

    >>> import torch, gradtx as gx
    >>> grads = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    >>> gx.clip_by_global_norm(1.0).update(grads, ())[0]
    {'a': tensor([0.6000]), 'b': tensor([0.8000])}
    """

    max_norm: Hyper = dynamic(within="(0, inf)")
    eps: float = static(0.0, within="[0, inf)")

    def update_tree(
        self,
        us: list[Tensor],
        leaves: list[Any] | None,
        shared: Any,
        ps: list[Any],
        h: Values,
        reduce: Reduce,
    ) -> tuple[list[Tensor], list[Any] | None, Any]:
        square = reduce.sum(total([squared_norm(u) for u in us]))
        if self.eps:
            factor = torch.clamp(h.max_norm / (root(square) + self.eps), max=1.0)
        else:
            factor = clipping(square, h.max_norm)
        return [u * factor.to(u.device, u.dtype) for u in us], leaves, shared


# A unit whose update is smaller than this is divided by it instead, never by zero.
_MIN_UNIT_NORM = 1e-6


@dataclass(frozen=True)
class adaptive_grad_clip(LeafTransform):
    """Scale every unit's update down to at most ``clipping`` times the norm of its parameters.

    u_i <- u_i * min(1, clipping * max(|p_i|, eps) / |u_i|) for every unit i. A unit is what feeds
    one output: a slice along the first dimension, where torch layers have their outputs. A leaf
    with at most one dimension longer than 1 is one unit.

    Args:
        clipping: largest ratio of the norms, > 0.
        eps: lower bound of the parameter's norm, so that zeros can grow; >= 0.
        axis: the dimension or dimensions over which norms are taken, instead of all but the first.

    Raises:
        ValueError: a value outside its interval, or no parameters given to ``update``.

    Source: arXiv 2102.06171.

    >>> import torch, gradtx as gx
    >>> params = {"w": torch.tensor([[3.0, 4.0], [6.0, 8.0]])}
    >>> grads = {"w": torch.tensor([[0.0, 9.0], [0.1, 0.0]])}
    >>> gx.adaptive_grad_clip(0.1).update(grads, (), params)[0]["w"].tolist()
    [[0.0, 0.5], [0.10000000149011612, 0.0]]
    """

    requires_params: ClassVar[bool] = True

    clipping: Hyper = dynamic(within="(0, inf)")
    eps: Hyper = dynamic(1e-3, within="[0, inf)")
    axis: int | tuple[int, ...] | None = static(None)

    def update_leaf(self, u: Tensor, s: Any, p: Tensor, h: Values) -> tuple[Tensor, Any]:
        size = floored_root(_unit_squares(p, self.axis).to(u.dtype), h.eps)
        square = _unit_squares(u, self.axis)
        most = h.clipping * size
        clipped = u * (most / floored_root(square, _MIN_UNIT_NORM))
        return torch.where(square.sqrt() < most, u, clipped), s


def unitwise_norm(x: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """The Euclidean norm of every unit, at all of its entries; units as in ``adaptive_grad_clip``.

    Args:
        x: any shape.
        axis: the dimension or dimensions of a unit, instead of all but the first.

    Returns:
        Of the shape of ``x``; several entries may share memory.

    >>> import torch, gradtx as gx
    >>> gx.unitwise_norm(torch.tensor([[3.0, 4.0], [6.0, 8.0]]))
    tensor([[ 5.,  5.],
            [10., 10.]])
    """
    return root(_unit_squares(x, axis)).expand(x.shape)


def unitwise_clip(norm: Tensor, max_norm: Tensor, update: Tensor, div_eps: float = 1e-6) -> Tensor:
    """Scale the units whose norm is not below a bound down to it.

    ``update * max_norm / max(norm, div_eps)`` where norm >= max_norm.

    Args:
        norm: of the update's units, see ``unitwise_norm``.
        max_norm: what they may be; broadcasts as ``norm`` does.
        update: any shape.
        div_eps: least divisor, > 0.

    >>> import torch, gradtx as gx
    >>> u = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    >>> gx.unitwise_clip(gx.unitwise_norm(u), torch.tensor(1.0), u)
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """
    return torch.where(
        norm < max_norm, update, update * (max_norm / torch.clamp(norm, min=div_eps))
    )


def _unit_squares(x: Tensor, axis: int | tuple[int, ...] | None) -> Tensor:
    """Squared norm of every unit, in a shape that broadcasts against ``x``."""
    if axis is not None:
        return sum_over(x.square(), axis)
    if sum(n != 1 for n in x.shape) <= 1:
        return element_sum(x.square())
    return x.square().sum(dim=tuple(range(1, x.ndim)), keepdim=True)
