"""Spectral norms of small matrices, or lower bounds that take a few products."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.random import make_key, normal
from ...core.roots import divide, vector_norm

NORMS = ("column", "subspace", "exact")
ROWS = 32


def norm(a: Tensor, how: str) -> Tensor:
    """Largest singular values (batch,) of symmetric or skew matrices (batch, n, n).

    Args:
        a: the matrices.
        how: "column" and "subspace" are lower bounds, "exact" decomposes.
    """
    if how == "exact":
        finite = a.isfinite().all(-1).all(-1)
        values = torch.linalg.svdvals(torch.where(finite[:, None, None], a, 0.0))
        return torch.where(finite, values[:, 0], torch.nan)
    return column(a) if how == "column" else subspace(a, start_rows(a))


def column(a: Tensor) -> Tensor:
    """One step of a power iteration from the longest column.

    Args:
        a: symmetric or skew matrices (batch, n, n).
    """
    size = a.abs().amax((-2, -1))  # (batch,)
    a = divide(a, size[:, None, None])
    longest = a.square().sum(-2).argmax(-1)  # (batch,)
    first = a.gather(-1, longest[:, None, None].expand(-1, a.shape[-1], 1))  # (batch, n, 1)
    x = a.mT @ first  # (batch, n, 1)
    x = divide(x, vector_norm(x, dim=-2, keepdim=True))
    return size * vector_norm(a @ x, dim=(-2, -1))


def start_rows(a: Tensor) -> Tensor:
    """Random rows (rows, n) of a fixed stream: a bound is a function of the matrix alone."""
    return normal(make_key(0, device=a.device), (ROWS, a.shape[-1]), a.dtype)


def subspace(a: Tensor, rows: Tensor) -> Tensor:
    """Two double steps of a power iteration from rows near the longest one.

    Args:
        a: symmetric or skew matrices (batch, n, n).
        rows: random, (rows, n).
    """
    # Of a semi-definite matrix the largest entry is on the diagonal.
    size = a.abs().amax((-2, -1))  # (batch,)
    a = divide(a, size[:, None, None])
    longest = a.square().sum(-1).argmax(-1)  # (batch,)
    row = a.gather(-2, longest[:, None, None].expand(-1, 1, a.shape[-1]))  # (batch, 1, n)
    along = (row * rows).sum(-1, keepdim=True)  # (batch, rows, 1)
    v = row + torch.where(along < 0, -rows, rows)
    for _ in range(2):
        v = v @ a  # (batch, rows, n)
        v = divide(v, vector_norm(v, dim=-1, keepdim=True)) @ a
    return size * vector_norm(v, dim=-1).amax(-1)
