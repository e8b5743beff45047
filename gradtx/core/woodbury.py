"""F = damping I + (1/count) sum_i g_i g_i^T inverted by way of the inner products of the g_i.

With A = G G^T + count damping I = L L^T and Y = L^-1 G, all in float64, F^-1 is
(I - Y^T Y) / damping: a Cholesky factor as large as there are gradients, whatever their length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import decompositions

LEAST = 1e-12  # of the inverse's largest possible diagonal: what rounding may not go below


def factor(gram: Tensor, shift: Any) -> tuple[Tensor, Tensor]:
    """The Cholesky factor L of gram + shift I, and whether there is one.

    Args:
        gram: float64 (..., m, m).
        shift: count times damping; a number or a 0-d tensor.
    """
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    lower, info = decompositions.cholesky_ex(gram + shift * eye)
    return lower, info == 0


def solve(lower: Tensor, there: Tensor, b: Tensor) -> Tensor:
    """A^-1 b for a vector (m,); NaN where A is not positive."""
    y = decompositions.solve_triangular(lower, b[:, None], upper=False)
    y = decompositions.solve_triangular(lower.mT, y, upper=True)[:, 0]
    return torch.where(there, y, torch.nan)


def whitened(lower: Tensor, rows: Tensor) -> Tensor:
    """Y = L^-1 G, float64, for rows (..., m, n)."""
    return decompositions.solve_triangular(lower, rows.to(lower.dtype), upper=False)


def inverse_diagonal(white: Tensor, damping: Any) -> Tensor:
    """The diagonal of F^-1, (..., n), from Y (..., m, n); at least 1e-12 / damping.

    >>> import torch
    >>> from gradtx.core import woodbury
    >>> g = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    >>> lower, _ = woodbury.factor(g @ g.mT, 1.0)
    >>> woodbury.inverse_diagonal(woodbury.whitened(lower, g), 1.0)
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    return (1 - white.square().sum(-2)).clamp(min=LEAST) / damping
