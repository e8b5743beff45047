"""The largest of some scores, chosen the same way everywhere."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["top_indices"]


def top_indices(scores: Tensor, k: int) -> Tensor:
    """Positions of the k largest numbers along the last dimension, ascending.

    Of equal numbers the one at the lower position is taken; NaN counts as the largest.

    Args:
        scores: (..., n).
        k: how many, in [0, n].

    Returns:
        int64 (..., k).

    Raises:
        ValueError: k outside its range.

    >>> import torch, gradtx as gx
    >>> gx.ops.top_indices(torch.tensor([1.0, 3.0, 1.0, 2.0]), 3)
    tensor([0, 1, 3])
    """
    n = scores.shape[-1]
    if not 0 <= k <= n:
        raise ValueError(f"top_indices: k must be in [0, {n}], got {k}")
    first = torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :k]
    return torch.sort(first, dim=-1).values
