"""Sums over all elements of a tensor whose bits do not depend on the number of threads."""

from __future__ import annotations

import torch
from torch import Tensor

from .watch import is_recorded

_ROW = 4096  # elements of a partial sum
_ONE_THREAD = 1 << 15  # elements up to which torch adds in one thread


def element_sum(x: Tensor) -> Tensor:
    """``x.sum()`` in parts of fixed size.

    torch cuts what it adds to one number into as many parts as there are threads. What is being
    recorded is left to whoever runs it.

    >>> import torch
    >>> from gradtx.core.sums import element_sum
    >>> element_sum(torch.ones(3, 5))
    tensor(15.)
    """
    if is_recorded() or x.numel() <= _ONE_THREAD:
        return x.sum()
    flat = x.reshape(-1)
    whole = flat.numel() // _ROW * _ROW
    parts = flat[:whole].reshape(-1, _ROW).sum(1)
    return element_sum(
        parts if whole == flat.numel() else torch.cat([parts, flat[whole:].sum()[None]])
    )


def element_mean(x: Tensor) -> Tensor:
    """``x.mean()`` in parts of fixed size."""
    if is_recorded() or x.numel() <= _ONE_THREAD:
        return x.mean()
    return element_sum(x) / x.numel()
