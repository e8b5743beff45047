"""Averages over time, their bias for having started at zero, and what they are made of."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .forward import forward_rule
from .hyper import one_minus_power
from .state import advance
from .watch import is_traced, is_watched


def average(old: Tensor, new: Tensor, decay: float | Tensor) -> Tensor:
    """``decay * old + (1 - decay) * new`` in the dtype of ``new``."""
    before = old if old.dtype == new.dtype else old.to(new.dtype)
    return add_multiple(decay * before, 1 - decay, new)


def average_square(old: Tensor, new: Tensor, decay: float | Tensor) -> Tensor:
    """``decay * old + (1 - decay) * new**2`` in the dtype of ``new``.

    Where autograd records it, one operation with half the passes in its derivative.

    >>> import torch
    >>> from gradtx.core.averages import average_square
    >>> average_square(torch.ones(1), torch.tensor([3.0]), 0.75)
    tensor([3.])
    """
    if (
        isinstance(decay, Tensor)
        or not is_watched(old, new)
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or old.dtype != new.dtype
        or old.shape != new.shape
    ):
        return average(old, new * new, decay)
    return cast(Tensor, _AverageSquare.apply(old, new, decay))


class _AverageSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, old: Tensor, new: Tensor, decay: float) -> Tensor:
        ctx.save_for_backward(new)
        ctx.save_for_forward(new)
        ctx.decay = decay
        return average(old, new * new, decay)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (new,) = ctx.saved_tensors
        older, newer, _ = ctx.needs_input_grad
        weight = 2 * (1 - ctx.decay)
        return (
            ctx.decay * grad if older else None,
            torch.addcmul(grad.new_zeros(()), grad, new, value=weight) if newer else None,
            None,
        )

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, older: Tensor, newer: Tensor, _: None) -> Tensor:
        (new,) = ctx.saved_tensors
        return torch.addcmul(ctx.decay * older, newer, new, value=2 * (1 - ctx.decay))


def add_multiple(x: Tensor, factor: float | Tensor, y: Tensor) -> Tensor:
    """``x + factor * y``, in one pass where the factor is a number.

    >>> import torch
    >>> from gradtx.core.averages import add_multiple
    >>> add_multiple(torch.ones(1), 0.5, torch.ones(1))
    tensor([1.5000])
    """
    # A compiler would take the number for a constant; torch's linearize crashes where y alone has
    # no tangent.
    if isinstance(factor, Tensor) or is_traced():
        return x + factor * y
    return torch.add(x, y, alpha=factor)


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
