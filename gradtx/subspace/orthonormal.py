"""Orthonormal bases of what the columns of thin matrices span."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .projector import canonical
from .refresh import either


def orthonormal(y: Tensor) -> Tensor:
    """Q of the reduced QR decomposition, with canonical signs.

    On the CPU by Householder's reflections. On other devices twice R from the Cholesky
    decomposition of Y^T Y, the first time in float64: matrix products only; where that is not exact
    enough, for dependent columns, Householder's reflections too.

    Args:
        y: (..., size, rank), a batch of thin matrices.

    >>> import torch
    >>> from gradtx.subspace.orthonormal import orthonormal
    >>> orthonormal(torch.tensor([[3.0, 3.0], [4.0, 4.0 + 1e-3]]))
    tensor([[ 0.6000,  0.8000],
            [ 0.8000, -0.6000]])
    """

    def reflected() -> Tensor:
        return torch.linalg.qr(y, mode="reduced").Q

    if y.device.type == "cpu":
        return canonical(reflected())
    return canonical(divided(y, reflected))


def divided(y: Tensor, otherwise: Callable[[], Tensor]) -> Tensor:
    """Q from Cholesky decompositions, or what ``otherwise`` gives where they are not exact."""
    once, good = _divided(y.double())
    twice, again = _divided(once.to(y.dtype), near=0.25)
    return either((good & again).all(), lambda: twice, otherwise)


def _divided(y: Tensor, near: float | None = None) -> tuple[Tensor, Tensor]:
    """Y R^-1 with R^T R = Y^T Y, and whether there is such an R, of a Y^T Y near the identity."""
    gram = y.mT @ y
    lower, info = torch.linalg.cholesky_ex(gram)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    good = info == 0
    if near is not None:
        good = good & ((gram - eye).abs().amax((-2, -1)) < near)
    return y @ torch.linalg.solve_triangular(lower, eye, upper=False).mT, good
