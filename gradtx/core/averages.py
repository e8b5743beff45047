"""Averages over time, and their bias for having started at zero."""

from __future__ import annotations

from torch import Tensor

from .hyper import one_minus_power
from .state import advance


def average(old: Tensor, new: Tensor, decay: float | Tensor) -> Tensor:
    """``decay * old + (1 - decay) * new`` in the dtype of ``new``."""
    return decay * old.to(new.dtype) + (1 - decay) * new


def corrected_mean(
    mu: Tensor, u: Tensor, b1: float | Tensor, count: Tensor, nesterov: bool = False
) -> Tensor:
    """A first moment that started at zero, without its bias; ``count`` includes this update."""
    now = one_minus_power(b1, count, u.dtype)
    if not nesterov:
        return mu / now
    return b1 * (mu / one_minus_power(b1, advance(count), u.dtype)) + (1 - b1) * (u / now)
