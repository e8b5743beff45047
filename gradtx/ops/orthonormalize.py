"""The operator ``gradtx::orthonormalize_``: orthonormal bases of what thin matrices span.

    orthonormalize_(Tensor y, Tensor(a!) q) -> Tensor exact

y and q are contiguous float32 batches, (batch, size, rank). q becomes Q of the reduced QR
decomposition of y, the largest entry of a column (the first of equals) positive. `exact`, (batch,)
of bool, says where: a backend leaves out what is not finite, and may leave out others, such as
matrices with dependent columns; q holds anything there. As in any matrix product the order of the
sums is the backend's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradtx.ops.registry import operator

__all__ = ["orthonormalize_"]


def _fake(y: Tensor, q: Tensor) -> Tensor:
    return y.new_empty(y.shape[:1], dtype=torch.bool)


@operator("orthonormalize_(Tensor y, Tensor(a!) q) -> Tensor exact", fake=_fake, mutates=True)
def orthonormalize_(y: Tensor, q: Tensor) -> Tensor:
    """Decompose; see the module's text."""
    basis = torch.linalg.qr(y).Q
    largest = basis.gather(-2, basis.abs().argmax(dim=-2, keepdim=True))
    q.copy_(torch.where(largest < 0, -basis, basis))
    return q.isfinite().all(-1).all(-1)
