"""The operator ``gradtx::orthonormalize_``: orthonormal bases of what thin matrices span.

    orthonormalize_(Tensor y, Tensor(a!) q) -> Tensor exact

y and q are contiguous float32 batches, (batch, size, rank), rank at most size, apart in memory. q
becomes Q of the reduced QR decomposition of y, the largest entry of a column (the first of equals)
positive. `exact`, (batch,) of bool, says where: a backend leaves out what is not finite, and may
leave out others, such as matrices with dependent columns; q holds anything there. As in any matrix
product the order of the sums is the backend's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradtx.core import decompositions
from gradtx.ops.registry import operator, require_apart, require_together

__all__ = ["orthonormalize_"]


def _check(y: Tensor, q: Tensor) -> None:
    name = "orthonormalize_"
    if y.ndim != 3 or y.shape != q.shape:
        raise ValueError(
            f"{name}: y and q must be batches of matrices of one shape, got {tuple(y.shape)} and "
            f"{tuple(q.shape)}"
        )
    if y.shape[1] < y.shape[2]:
        raise ValueError(
            f"{name}: matrices must not have more columns than rows, got {tuple(y.shape)}"
        )
    for x in (y, q):
        if x.dtype != torch.float32 or not x.is_contiguous():
            raise ValueError(f"{name}: y and q must be contiguous and float32")
    require_together(name, y, q)


def _fake(y: Tensor, q: Tensor) -> Tensor:
    _check(y, q)
    return y.new_empty(y.shape[:1], dtype=torch.bool)


@operator("orthonormalize_(Tensor y, Tensor(a!) q) -> Tensor exact", fake=_fake, mutates=True)
def orthonormalize_(y: Tensor, q: Tensor) -> Tensor:
    """Decompose; see the module's text."""
    _check(y, q)
    require_apart("orthonormalize_", q, y)
    basis = decompositions.qr(y).Q  # (batch, rows, columns), like y
    largest = basis.gather(-2, basis.abs().argmax(dim=-2, keepdim=True))
    q.copy_(torch.where(largest < 0, -basis, basis))
    return q.isfinite().all(-1).all(-1)
