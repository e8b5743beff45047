"""The nearest point of a set: projections of trees, all entries taken as one vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import tree
from .roots import divide, root
from .tree import PyTree
from .tree_math import add_scale, norm, scale

__all__ = [
    "box",
    "halfspace",
    "hypercube",
    "hyperplane",
    "l1_ball",
    "l1_sphere",
    "l2_ball",
    "l2_sphere",
    "linf_ball",
    "non_negative",
    "simplex",
    "vector",
]


def non_negative(values: PyTree) -> PyTree:
    """The nearest tree without negative entries.

    >>> import torch, gradtx as gx
    >>> gx.projections.non_negative({"a": torch.tensor([-1.0, 2.0])})
    {'a': tensor([0., 2.])}
    """
    return tree.map(lambda x: torch.clamp(x, min=0), values)


def box(values: PyTree, lower: Any, upper: Any) -> PyTree:
    """The nearest tree between two bounds.

    Args:
        values: tree of tensors.
        lower: a number or a tree of numbers or tensors.
        upper: as ``lower``.

    >>> import torch, gradtx as gx
    >>> gx.projections.box({"a": torch.tensor([-1.0, 2.0])}, {"a": 0.0}, 1.0)
    {'a': tensor([0., 1.])}
    """
    lower, upper = _spread(values, lower), _spread(values, upper)
    return tree.map(lambda x, a, b: torch.clamp(torch.clamp(x, min=a), max=b), values, lower, upper)


def hypercube(values: PyTree, size: Any = 1.0) -> PyTree:
    """The nearest tree with entries from 0 to ``size``.

    >>> import torch, gradtx as gx
    >>> gx.projections.hypercube({"a": torch.tensor([-1.0, 2.0])})
    {'a': tensor([0., 1.])}
    """
    return box(values, 0.0, size)


def linf_ball(values: PyTree, size: float | Tensor = 1.0) -> PyTree:
    """The nearest tree with no absolute value above ``size``.

    >>> import torch, gradtx as gx
    >>> gx.projections.linf_ball({"a": torch.tensor([-3.0, 0.5])})
    {'a': tensor([-1.0000,  0.5000])}
    """
    return box(values, -size, size)


def l2_sphere(values: PyTree, size: float | Tensor = 1.0) -> PyTree:
    """The nearest tree of Euclidean norm ``size``; zero stays zero.

    >>> import torch, gradtx as gx
    >>> gx.projections.l2_sphere({"a": torch.tensor([3.0, 4.0])}, 10.0)
    {'a': tensor([6., 8.])}
    """
    return scale(divide(torch.ones_like(length := norm(values)), length) * size, values)


def l2_ball(values: PyTree, size: float | Tensor = 1.0) -> PyTree:
    """The nearest tree of Euclidean norm at most ``size``.

    >>> import torch, gradtx as gx
    >>> gx.projections.l2_ball({"a": torch.tensor([3.0, 4.0])})
    {'a': tensor([0.6000, 0.8000])}
    """
    square = norm(values, squared=True)
    inside = root(square) <= size
    length = root(torch.where(inside, torch.ones_like(square), square))
    return scale(torch.where(inside, 1.0, size / length), values)


def simplex(values: PyTree, size: float | Tensor = 1.0) -> PyTree:
    """The nearest tree of non-negative entries that add up to ``size``.

    Source: Held, Wolfe and Crowder, Math. Programming 6 (1974).

    >>> import torch, gradtx as gx
    >>> gx.projections.simplex({"a": torch.tensor([0.5, 1.5]), "b": torch.tensor(-1.0)})
    {'a': tensor([0., 1.]), 'b': tensor(0.)}
    """
    shift = _simplex_shift(_flat(values), size)
    return tree.map(lambda x: torch.clamp(x - shift.to(x), min=0), values)


def l1_sphere(values: PyTree, size: float | Tensor = 1.0) -> PyTree:
    """The nearest tree whose absolute values add up to ``size``.

    >>> import torch, gradtx as gx
    >>> gx.projections.l1_sphere({"a": torch.tensor([-0.5, 1.0])}, 2.5)
    {'a': tensor([-1.0000,  1.5000])}
    """
    shift = _simplex_shift(_flat(values).abs(), size)
    return tree.map(lambda x: torch.sign(x) * torch.clamp(x.abs() - shift.to(x), min=0), values)


def l1_ball(values: PyTree, size: float | Tensor = 1.0) -> PyTree:
    """The nearest tree whose absolute values add up to at most ``size``.

    >>> import torch, gradtx as gx
    >>> gx.projections.l1_ball({"a": torch.tensor([-0.5, 1.0])})
    {'a': tensor([-0.2500,  0.7500])}
    """
    return tree.where(norm(values, 1) <= size, values, l1_sphere(values, size))


def vector(values: PyTree, along: PyTree) -> PyTree:
    """The part of a tree along another: ``<x, a> / <a, a> a``.

    >>> import torch, gradtx as gx
    >>> gx.projections.vector({"a": torch.tensor([3.0, 4.0])}, {"a": torch.tensor([2.0, 0.0])})
    {'a': tensor([3., 0.])}
    """
    return scale(tree.vdot(values, along) / tree.vdot(along, along), along)


def hyperplane(values: PyTree, normal: PyTree, offset: float | Tensor) -> PyTree:
    """The nearest tree with ``<a, x> = b``.

    >>> import torch, gradtx as gx
    >>> gx.projections.hyperplane({"a": torch.zeros(2)}, {"a": torch.tensor([2.0, 0.0])}, 4.0)
    {'a': tensor([2., 0.])}
    """
    gap = (tree.vdot(normal, values) - offset) / tree.vdot(normal, normal)
    return add_scale(values, -gap, normal)


def halfspace(values: PyTree, normal: PyTree, offset: float | Tensor) -> PyTree:
    """The nearest tree with ``<a, x> <= b``.

    >>> import torch, gradtx as gx
    >>> gx.projections.halfspace({"a": torch.zeros(2)}, {"a": torch.tensor([2.0, 0.0])}, 4.0)
    {'a': tensor([0., 0.])}
    """
    gap = torch.clamp(tree.vdot(normal, values) - offset, min=0) / tree.vdot(normal, normal)
    return add_scale(values, -gap, normal)


def _simplex_shift(x: Tensor, size: float | Tensor) -> Tensor:
    """What is taken off every entry before negative ones become zero."""
    ordered = torch.sort(x, descending=True).values
    above = torch.cumsum(ordered, 0) - size
    count = torch.arange(1, x.numel() + 1, dtype=x.dtype, device=x.device)
    kept = (ordered - above / count > 0).sum()
    return (above.gather(0, (kept - 1)[None]) / kept)[0]


def _flat(values: PyTree) -> Tensor:
    return torch.cat([tree.accumulator(x).reshape(-1) for x in tree.leaves(values)])


def _spread(values: PyTree, bound: Any) -> PyTree:
    if isinstance(bound, (int, float, Tensor)):
        return tree.map(lambda _: bound, values)
    return bound
