"""Norms with a floor, whose derivatives are finite at zero."""

from __future__ import annotations

import torch
from torch import Tensor

from .roots import floored_root
from .tree import accumulator, squared_norm

Axis = int | tuple[int, ...] | None


def safe_norm(
    x: Tensor,
    min_norm: float | Tensor,
    ord: float | str | None = None,
    axis: Axis = None,
    keepdims: bool = False,
) -> Tensor:
    """``max(torch.linalg.norm(x), min_norm)``, with derivative zero where the floor holds.

    Args:
        x: tensor.
        min_norm: the least norm, >= 0.
        ord: as of ``torch.linalg.norm``; None for the Euclidean norm.
        axis: dimensions that the norm is taken over; None for all.
        keepdims: whether they stay, with size one.

    >>> import torch, gradtx as gx
    >>> torch.func.grad(gx.safe_norm)(torch.zeros(2), 1e-3)
    tensor([0., 0.])
    """

    def norm(y: Tensor, keep: bool) -> Tensor:
        return torch.linalg.norm(y, ord, axis, keep)

    low = norm(x.detach(), True) <= min_norm
    safe = norm(torch.where(low, torch.ones_like(x), x), keepdims)
    return torch.where(low.reshape(safe.shape), min_norm, safe)


def safe_root_mean_squares(x: Tensor, min_rms: float | Tensor) -> Tensor:
    """``max(sqrt(mean(x^2)), min_rms)``, with derivative zero where the floor holds.

    In at least float32; ``min_rms`` for a tensor without entries.

    >>> import torch, gradtx as gx
    >>> gx.safe_root_mean_squares(torch.tensor([3.0, 4.0, 0.0, 0.0]), 0.0)
    tensor(2.5000)
    """
    square = accumulator(x).abs() if x.is_complex() else x
    return floored_root(squared_norm(square) / max(x.numel(), 1), min_rms)
