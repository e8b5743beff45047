"""The root of a matrix in the basis of its eigenvectors, where only derivatives are left to do."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.watch import is_watched

_ORDER = 3  # of derivatives that are exact


def diagonal_root(square: Tensor, s: Tensor) -> Tensor:
    """``diag(s)``, which for differentiation is the root of a symmetric matrix, ``diag(s^2)``.

    Steps of Newton's iteration from the root change nothing of its value; each makes one order of
    derivatives more that of the root. Unlike those of a decomposition they are finite for equal
    eigenvalues.

    Args:
        square: (..., n, n), diagonal but for rounding.
        s: (..., n), positive; a constant.

    >>> import torch
    >>> from gradtx.precondition.diagonal_root import diagonal_root
    >>> def trace(x):
    ...     return diagonal_root(torch.diag_embed(x), x.detach().sqrt()).trace()
    >>> torch.func.grad(trace)(torch.tensor([4.0, 4.0]))
    tensor([0.2500, 0.2500])
    """
    root = start = torch.diag_embed(s)
    if is_watched(square):
        change = square - square.detach()
        sums = s[..., :, None] + s[..., None, :]
        for _ in range(_ORDER):
            root = root + (change + start * start - root @ root) / sums
    return root
