"""Decompositions of matrices whose bits depend neither on threads nor on where a matrix lies.

LAPACK's sums follow its threads. On the CPU they run in one, which is faster up to several hundred
rows and columns, and about as fast beyond. They also follow addresses, modulo the width of vector
registers: matrices of a stack that begin elsewhere are decomposed one by one.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from .watch import is_recorded, is_traced, is_watched

__all__ = [
    "at_once",
    "cholesky_ex",
    "each_in_a_thread",
    "eigh",
    "one_thread",
    "qr",
    "solve_triangular",
    "svd",
]

_SMALL = 64  # rows of matrices below which a thread does not pay
_EVEN = 4  # rows and columns whose multiples let every matrix of a stack begin where a vector may

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
        if is_traced() or x.device.type != "cpu" or (before := torch.get_num_threads()) == 1:
            return fn(x, *args, **kwargs)
        torch.set_num_threads(1)
        try:
            return fn(x, *args, **kwargs)
        finally:
            torch.set_num_threads(before)

    return alone  # type: ignore[return-value]


def each_in_a_thread(fn: Function) -> Function:
    """A decomposition into several tensors, of stacks on the CPU several matrices at a time.

    Each is decomposed in one thread, in memory of its own where it would begin at an odd place, so
    that its bits depend neither on the others nor on the number of threads.

    >>> import torch
    >>> from gradtx.core.decompositions import each_in_a_thread
    >>> q, r = each_in_a_thread(torch.linalg.qr)(torch.eye(64).expand(3, 64, 64))
    >>> q.shape
    torch.Size([3, 64, 64])
    """
    alone = one_thread(fn)

    @functools.wraps(fn)
    def each(x: Any, *args: Any, **kwargs: Any) -> Any:
        if is_traced() or is_watched(x) or x.device.type != "cpu" or x.ndim != 3 or len(x) < 2:
            return alone(x, *args, **kwargs)
        small = x.shape[1] < _SMALL
        if small and not any(size % _EVEN for size in x.shape[1:]):
            return alone(x, *args, **kwargs)

        def run(one: Tensor) -> Any:
            torch.get_num_threads()  # a new thread learns the number when it asks for it
            return fn(one, *args, **kwargs)

        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            alone_here = small or before == 1 or is_recorded()  # modes do not see other threads
            threads = None if alone_here else _threads(min(before, len(x)), os.getpid())
            found = list((threads.map if threads else map)(run, x.detach()))
        finally:
            torch.set_num_threads(before)
        return type(found[0])([_stacked(parts) for parts in zip(*found, strict=True)])

    return each  # type: ignore[return-value]


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Results as a stack that lies as they do: what follows depends on that too."""
    if parts[0].is_contiguous() or not parts[0].mT.is_contiguous():
        return torch.stack(list(parts))
    return torch.stack([x.mT for x in parts]).mT


def at_once() -> int:
    """How many matrices of a stack on the CPU are decomposed at a time."""
    return 1 if is_recorded() else torch.get_num_threads()


@functools.lru_cache(maxsize=4)
def _threads(count: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process that wait for work."""
    return ThreadPoolExecutor(count, f"gradtx {process}")


cholesky_ex = one_thread(torch.linalg.cholesky_ex)
eigh = each_in_a_thread(torch.linalg.eigh)
qr = each_in_a_thread(torch.linalg.qr)
solve_triangular = one_thread(torch.linalg.solve_triangular)
svd = each_in_a_thread(torch.linalg.svd)
