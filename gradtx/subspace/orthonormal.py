"""Orthonormal bases of what the columns of thin matrices span."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..core import decompositions
from ..ops import orthonormalize_
from ..ops.coordinates import is_plain
from .projector import canonical
from .refresh import either


def orthonormal(y: Tensor) -> Tensor:
    """Q of the reduced QR decomposition, with canonical signs.

    R from the Cholesky decomposition of Y^T Y in float64, and once more from Q's: matrix products
    only. Where that is not exact enough, as for dependent columns, by Householder's reflections; on
    the CPU also in other dtypes than float32 and under transformations and compilation.

    Args:
        y: (..., size, rank), a batch of thin matrices.

    >>> import torch
    >>> from gradtx.subspace.orthonormal import orthonormal
    >>> orthonormal(torch.tensor([[3.0, 3.0], [4.0, 4.0 + 1e-3]]))
    tensor([[ 0.6000,  0.8000],
            [ 0.8000, -0.6000]])
    """

    def reflected() -> Tensor:
        return decompositions.qr(y, mode="reduced").Q

    if y.shape[-2] >= y.shape[-1] and is_plain(y):
        return _in_kernel(y)
    if y.device.type == "cpu":
        return canonical(reflected())
    return canonical(divided(y, reflected))


def orthonormal_or(y: Tensor, old: Tensor) -> Tensor:
    """``orthonormal(y)``, and the old basis where anything in ``y`` is not finite.

    >>> import torch
    >>> from gradtx.subspace.orthonormal import orthonormal_or
    >>> orthonormal_or(torch.tensor([[[torch.nan], [1.0]]]), torch.tensor([[[1.0], [0.0]]])).mT
    tensor([[[1., 0.]]])
    """
    if y.shape[-2] >= y.shape[-1] and is_plain(y):
        q, exact = _decomposed(y.contiguous())
        if exact.all():
            return q
    good = torch.isfinite(y.abs().amax((-2, -1), keepdim=True))
    return torch.where(good, orthonormal(torch.where(good, y, 0.0)), old)


def _decomposed(batch: Tensor) -> tuple[Tensor, Tensor]:
    q = torch.empty_like(batch)
    return q, orthonormalize_(batch, q)


def _in_kernel(y: Tensor) -> Tensor:
    batch = y.reshape(y.shape[:-2].numel(), *y.shape[-2:]).contiguous()
    q, exact = _decomposed(batch)
    if not exact.all():
        q[~exact] = canonical(decompositions.qr(batch[~exact]).Q)
    return q.reshape(y.shape)


def divided(y: Tensor, otherwise: Callable[[], Tensor]) -> Tensor:
    """Q from Cholesky decompositions, or what ``otherwise`` gives where they are not exact."""
    once, good = _divided(y.double())
    twice, again = _divided(once.to(y.dtype), near=0.25)
    return either((good & again).all(), lambda: twice, otherwise)


def _divided(y: Tensor, near: float | None = None) -> tuple[Tensor, Tensor]:
    """Y R^-1 with R^T R = Y^T Y, and whether there is such an R, of a Y^T Y near the identity."""
    gram = y.mT @ y  # (batch, rank, rank) of (batch, size, rank)
    lower, info = decompositions.cholesky_ex(gram)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    good = info == 0
    if near is not None:
        good = good & ((gram - eye).abs().amax((-2, -1)) < near)
    return y @ decompositions.solve_triangular(lower, eye, upper=False).mT, good
