"""Losses along the line between two solutions, and after a second task."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..core import tree
from ..core.tree import PyTree, accumulator

Loss: TypeAlias = Callable[[PyTree], Tensor]


class Line(NamedTuple):
    """Attributes: ``places`` and ``losses``, both (points,); ``barrier``, 0-d.

    The barrier is the largest height of the loss above the straight line between both ends, 0 for
    a convex valley.
    """

    places: Tensor
    losses: Tensor
    barrier: Tensor


def interpolate(a: PyTree, b: PyTree, t: float) -> PyTree:
    """``(1 - t) a + t b``, leaf by leaf, in the dtypes of ``a``.

    Args:
        a: a tree of tensors.
        b: a tree like it.
        t: 0 for ``a``, 1 for ``b``.

    Raises:
        TreeMismatchError: another structure.

    >>> import torch, gradtx as gx
    >>> gx.solutions.interpolate({"x": torch.zeros(1)}, {"x": torch.ones(1)}, 0.25)
    {'x': tensor([0.2500])}
    """

    def between(x: Tensor, y: Tensor) -> Tensor:
        return ((1.0 - t) * accumulator(x) + t * accumulator(y)).to(x.dtype)

    return tree.map(between, a, b)


def linear_mode_connectivity(loss_fn: Loss, a: PyTree, b: PyTree, points: int = 11) -> Line:
    """The loss on the line between two solutions, and the barrier between them.

    Args:
        loss_fn: parameters -> 0-d loss, of a fixed batch.
        a: a solution.
        b: another one.
        points: at equal distances, both ends included, >= 3.

    Raises:
        ValueError: fewer than three points.
        TreeMismatchError: trees of different structure.

    Source: arXiv 1912.05671.

    >>> import torch, gradtx as gx
    >>> def loss(p): return (p["x"] ** 2 - 1).square().sum()
    >>> a, b = {"x": torch.tensor([-1.0])}, {"x": torch.tensor([1.0])}
    >>> gx.solutions.linear_mode_connectivity(loss, a, b, points=5).barrier
    tensor(1.)
    """
    if points < 3:
        raise ValueError(f"linear_mode_connectivity: points must be >= 3, got {points}")
    places = [i / (points - 1) for i in range(points)]
    with torch.no_grad():
        losses = torch.stack([loss_fn(interpolate(a, b, t)) for t in places])
    t = torch.tensor(places, dtype=losses.dtype, device=losses.device)
    height = losses - torch.lerp(losses[0], losses[-1], t)
    return Line(t, losses, height.max().clamp(min=0))


def forgetting(loss_fn: Loss, before: PyTree, after: PyTree) -> Tensor:
    """How much the loss of a first task has risen by training on a second one.

    Args:
        loss_fn: parameters -> 0-d loss of the first task.
        before: parameters at the end of the first task.
        after: at the end of the second.

    >>> import torch, gradtx as gx
    >>> def loss(p): return p["x"].square().sum()
    >>> gx.solutions.forgetting(loss, {"x": torch.ones(1)}, {"x": torch.full((1,), 2.0)})
    tensor(3.)
    """
    with torch.no_grad():
        return loss_fn(after) - loss_fn(before)
