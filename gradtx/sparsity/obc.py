"""Greedy pruning of rows that share a Hessian, one weight at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.plain import plain

_PIECE = 1 << 24  # entries of inverses that are there at once


def obc_prune(
    weight: Tensor, inverse_hessian: Tensor, keep: int, eps: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Drop weights of every row one by one, each time the one whose loss costs least.

    With P the inverse Hessian, for every row until ``keep`` entries are left: p = argmin w_i^2 /
    (P_ii + eps) over live i; w <- w - w_p / (P_pp + eps) P[:, p]; P <- P - P[:, p] P[p, :] /
    (P_pp + eps). All rows start from the same P, which is not changed.

    Args:
        weight: (rows, d).
        inverse_hessian: (d, d), symmetric, positive definite.
        keep: entries that remain of a row, in 0..d.
        eps: added to diagonals, >= 0.

    Returns:
        The weights, and a bool mask of what is kept.

    Raises:
        ValueError: a value outside its range, an inverse of another shape, or none that is
            symmetric and positive definite.

    Source: arXiv 2208.11580.

    >>> import torch, gradtx as gx
    >>> gx.sparsity.obc_prune(torch.tensor([[1.0, 3.0]]), torch.eye(2), 1)[0]
    tensor([[0., 3.]])
    """
    _, d = weight.shape
    if tuple(inverse_hessian.shape) != (d, d):
        raise ValueError(
            f"obc_prune: the inverse Hessian must be {(d, d)}, got {tuple(inverse_hessian.shape)}"
        )
    keep = plain(keep)
    if isinstance(keep, bool) or not isinstance(keep, int) or not 0 <= keep <= d:
        raise ValueError(f"obc_prune: keep must be an integer in 0..{d}, got {keep!r}")
    if not eps >= 0:
        raise ValueError(f"obc_prune: eps must be >= 0, got {eps!r}")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("obc_prune: the weights have a NaN or an infinity")
    base = inverse_hessian.double()
    bad = not torch.allclose(base, base.mT, rtol=1e-4, atol=1e-6 * float(base.abs().max()))
    if bad or int(torch.linalg.cholesky_ex(base).info):
        raise ValueError("obc_prune: the inverse Hessian must be symmetric and positive definite")
    # Every row changes an inverse of its own: some rows at a time.
    step = max(_PIECE // max(d * d, 1), 1)
    parts = [_rows(part, base, keep, eps) for part in weight.detach().double().split(step)]
    w, live = (torch.cat(each) for each in zip(*parts, strict=True))
    return w.to(weight.dtype), live


def _rows(w: Tensor, base: Tensor, keep: int, eps: float) -> tuple[Tensor, Tensor]:
    """The same for some rows in float64."""
    rows, d = w.shape
    inverse = base.expand(rows, d, d).clone()  # (rows, d, d)
    live = torch.ones(rows, d, dtype=torch.bool, device=w.device)
    every = torch.arange(rows, dtype=torch.int64, device=w.device)
    for _ in range(d - keep):
        diagonal = inverse.diagonal(dim1=1, dim2=2) + eps
        cost = torch.where(live, w.square() / diagonal, torch.inf)
        p = cost.argmin(dim=1)
        column, pivot = inverse[every, :, p], diagonal[every, p]
        w = w - (w[every, p] / pivot)[:, None] * column
        inverse = inverse - column[:, :, None] * column[:, None, :] / pivot[:, None, None]
        live[every, p] = False
        w = torch.where(live, w, 0)
    return w, live
