"""Sums over all elements of a tensor whose bits do not depend on the number of threads."""

from __future__ import annotations

import torch
from torch import Tensor

from .parts import ONE_THREAD
from .watch import is_recorded

_ROW = 4096  # elements of a partial sum


def element_sum(x: Tensor) -> Tensor:
    """``x.sum()`` in parts of fixed size.

    torch cuts what it adds to one number into as many parts as there are threads. What is being
    recorded is left to whoever runs it.

    >>> import torch
    >>> from gradtx.core.sums import element_sum
    >>> element_sum(torch.ones(3, 5))
    tensor(15.)
    """
    if is_recorded() or x.numel() <= ONE_THREAD:
        return x.sum()
    flat = x.reshape(-1)
    whole = flat.numel() // _ROW * _ROW
    parts = flat[:whole].reshape(-1, _ROW).sum(1)
    return element_sum(
        parts if whole == flat.numel() else torch.cat([parts, flat[whole:].sum()[None]])
    )


def sum_over(x: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """``x.sum(dims, keepdim=True)``, in parts of fixed size where nothing but one number is left.

    >>> import torch
    >>> from gradtx.core.sums import sum_over
    >>> sum_over(torch.ones(3, 5), (0, 1))
    tensor([[15.]])
    """
    if _leave_one_number(x, dims):
        return element_sum(x).reshape((1,) * x.ndim)
    return x.sum(dim=dims, keepdim=True)


def mean_over(x: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """``x.mean(dims, keepdim=True)``, likewise.

    >>> import torch
    >>> from gradtx.core.sums import mean_over
    >>> mean_over(torch.ones(3, 5), 1)
    tensor([[1.],
            [1.],
            [1.]])
    """
    if _leave_one_number(x, dims):
        return element_mean(x).reshape((1,) * x.ndim)
    return x.mean(dim=dims, keepdim=True)


def _leave_one_number(x: Tensor, dims: int | tuple[int, ...]) -> bool:
    which = (dims,) if isinstance(dims, int) else dims
    gone = {d % x.ndim for d in which if -x.ndim <= d < x.ndim}
    return len(gone) == len(which) and all(i in gone or n == 1 for i, n in enumerate(x.shape))


def element_mean(x: Tensor) -> Tensor:
    """``x.mean()`` in parts of fixed size."""
    if is_recorded() or x.numel() <= ONE_THREAD:
        return x.mean()
    return element_sum(x) / x.numel()
