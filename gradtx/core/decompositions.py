"""Decompositions of matrices whose bits do not depend on the number of threads.

LAPACK's sums follow its threads. On the CPU they run in one, which is faster up to several hundred
rows and columns, and about as fast beyond.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from .watch import is_recorded

__all__ = ["cholesky_ex", "eigh", "one_thread", "qr", "solve_triangular", "svd"]

Function = TypeVar("Function", bound=Callable[..., Any])


def one_thread(fn: Function) -> Function:
    """The function in one thread, where its first argument is a tensor on the CPU.

    torch's number of threads is one of the calling thread, so that others go on as they are.

    >>> import torch
    >>> from gradtx.core.decompositions import one_thread
    >>> one_thread(lambda x: torch.get_num_threads())(torch.ones(2))
    1
    """

    @functools.wraps(fn)
    def alone(x: Any, *args: Any, **kwargs: Any) -> Any:
        if is_recorded() or x.device.type != "cpu" or (before := torch.get_num_threads()) == 1:
            return fn(x, *args, **kwargs)
        torch.set_num_threads(1)
        try:
            return fn(x, *args, **kwargs)
        finally:
            torch.set_num_threads(before)

    return alone  # type: ignore[return-value]


cholesky_ex = one_thread(torch.linalg.cholesky_ex)
eigh = one_thread(torch.linalg.eigh)
qr = one_thread(torch.linalg.qr)
solve_triangular = one_thread(torch.linalg.solve_triangular)
svd = one_thread(torch.linalg.svd)
