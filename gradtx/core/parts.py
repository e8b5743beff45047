"""Functions of single elements whose bits do not depend on the number of threads.

torch gives every thread a part of the elements and computes the last few of a part by another
function than those before, which fill registers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .watch import is_recorded, is_watched

ONE_THREAD = 1 << 15  # elements up to which torch stays in one thread


def in_parts(fn: Callable[..., Tensor], *xs: Tensor) -> Tensor:
    """``fn(*xs)`` in parts of fixed size, where threads would choose others.

    Args:
        fn: a function of single elements that gives its first argument's dtype.
        xs: of one shape, else it is ``fn(*xs)`` as it is.

    >>> import torch
    >>> from gradtx.core.parts import in_parts
    >>> in_parts(torch.atan2, torch.zeros(3), torch.ones(3))
    tensor([0., 0., 0.])
    """
    x = xs[0]
    alike = x.device.type == "cpu" and all(y.shape == x.shape for y in xs)
    if x.numel() <= ONE_THREAD or not alike or is_recorded() or is_watched(*xs):
        return fn(*xs)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    parts = zip(*(y.reshape(-1).split(ONE_THREAD) for y in (out, *xs)), strict=True)
    for to, *some in parts:
        to.copy_(fn(*some))
    return out


def power(x: Tensor, exponent: float | Tensor) -> Tensor:
    """``x ** exponent``, the exponent one number.

    >>> import torch
    >>> from gradtx.core.parts import power
    >>> power(torch.tensor([4.0, 9.0]), 0.5)
    tensor([2., 3.])
    """
    if isinstance(exponent, Tensor) and is_watched(exponent):
        return x**exponent
    return in_parts(lambda part: part**exponent, x)
