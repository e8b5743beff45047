"""Averages over time, and their bias for having started at zero."""

from __future__ import annotations

import torch
from torch import Tensor

from .hyper import one_minus_power
from .state import advance


def average(old: Tensor, new: Tensor, decay: float | Tensor) -> Tensor:
    """``decay * old + (1 - decay) * new`` in the dtype of ``new``."""
    return decay * old.to(new.dtype) + (1 - decay) * new


def newest_weight(decay: float | Tensor) -> float | Tensor:
    """The weight of what is new: ``1 - decay`` in an average, 1 where a decay of 1 sums up."""
    if isinstance(decay, Tensor):
        return torch.where(decay < 1, 1 - decay, torch.ones_like(decay))
    return 1 - decay if decay < 1 else 1.0


def corrected_mean(
    mu: Tensor, u: Tensor, b1: float | Tensor, count: Tensor, nesterov: bool = False
) -> Tensor:
    """A first moment that started at zero, without its bias; ``count`` includes this update."""
    now = one_minus_power(b1, count, u.dtype)
    if not nesterov:
        return mu / now
    return b1 * (mu / one_minus_power(b1, advance(count), u.dtype)) + (1 - b1) * (u / now)
