"""Products of polynomials of one symmetric matrix, and how far these are from I, in stacks."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from gradtx.core.watch import is_watched
from gradtx.ops.symmetric_product import product, symmetric_product

__all__ = [
    "MOST_STEPS",
    "check_low",
    "check_stack",
    "distance",
    "identity",
    "in_pieces",
    "may_look",
    "multiply",
    "times_power",
    "times_power_by_halves",
]

MOST_STEPS = 1 << 20  # of iterations
_PIECE = 1 << 17  # elements of matrices whose iterations are made together


def check_stack(who: str, name: str, x: Tensor, low: torch.dtype) -> None:
    """Raise ValueError unless ``x`` is (batch, n, n) in a dtype that can be rounded to ``low``."""
    if x.ndim != 3 or x.shape[1] != x.shape[2]:
        raise ValueError(f"{who}: {name} must be (batch, n, n), got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{who}: {name} must be float32 or float64, got {x.dtype}")
    check_low(who, name, x, low)


def check_low(who: str, name: str, x: Tensor, low: torch.dtype) -> None:
    """Raise ValueError unless ``low`` is the dtype of ``x`` or one of 16 bits."""
    if low not in (x.dtype, torch.float16, torch.bfloat16):
        raise ValueError(
            f"{who}: low must be {x.dtype}, that of {name}, float16 or bfloat16, got {low}"
        )


def identity(a: Tensor) -> Tensor:
    """(n, n) in the dtype and on the device of (batch, n, n)."""
    return torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)


def distance(m: Tensor) -> Tensor:
    """The largest entry of ``|m - I|`` of every matrix, (batch, 1, 1)."""
    if not m.shape[-1]:
        return m.new_zeros((len(m), 1, 1))
    return (m - identity(m)).abs().amax((-2, -1), keepdim=True)


def multiply(
    x: Tensor,
    y: Tensor,
    c: Tensor | None = None,
    beta: float = 1.0,
    alpha: float = 1.0,
    low: torch.dtype | None = None,
) -> Tensor:
    """``beta c + alpha x y`` of polynomials of one symmetric matrix, symmetric itself.

    Args:
        x: (batch, n, n).
        y: likewise.
        c: likewise, or None.
        beta: factor of c.
        alpha: factor of the product.
        low: dtype that both factors are rounded to; sums and the result stay in that of x.
    """
    if low is None:
        return product(x, y, c, beta, alpha)
    wide, x, y = x.dtype, x.to(low), y.to(low)
    if x.is_cuda and not is_watched(x, y, c):
        out = torch.bmm(x, y, out_dtype=torch.float32)
        out = out if alpha == 1.0 else alpha * out
        return (out if c is None else out + beta * c).to(wide)
    return product(x.to(wide), y.to(wide), c, beta, alpha)


def square(w: Tensor, low: torch.dtype | None = None) -> Tensor:
    """``w w``; rounded to `low`, ``w w^T``, of which half is computed and mirrored."""
    if low is None:
        return product(w, w)  # w w^T, or a mirrored half, let iterations diverge
    if low == torch.bfloat16:
        return symmetric_product(w, w.mT, mixed=True)
    return multiply(w, w.mT, low=low)


def times_power(w: Tensor, p: int, m: Tensor, low: torch.dtype | None = None) -> Tensor:
    """``w^p m``, an even power by squares: for 2 ``(w w) m``, for 4 ``(w w) ((w w) m)``."""
    if p == 1:
        return multiply(w, m, low=low)
    squared = square(w, low)
    if p == 2:
        return multiply(squared, m, low=low)
    if p == 4 and low is None:
        return multiply(squared, multiply(squared, m))
    if p % 2:
        m = multiply(w, m, low=low)
    return times_power(squared, p // 2, m, low)


def times_power_by_halves(w: Tensor, p: int, m: Tensor, low: torch.dtype | None = None) -> Tensor:
    """``w^p m`` as ``times_power``, of whose products one half is computed and mirrored."""
    multiply = functools.partial(symmetric_product, mixed=low is not None)
    if p == 1:
        return multiply(w, m)
    squared = multiply(w, w.mT)
    if p == 4 and low is None:
        return multiply(squared, multiply(squared, m))
    return times_power_by_halves(squared, p // 2, multiply(w, m) if p % 2 else m, low)


def may_look(x: Tensor) -> bool:
    """Whether values may be looked at: on the CPU, where nothing follows the computation."""
    return x.device.type == "cpu" and not is_watched(x) and not _is_fake(x)


def _is_fake(x: Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(x, FakeTensor)


def in_pieces(iterate: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """``iterate`` of stacks, on the CPU of as many matrices at a time as stay in a cache.

    Args:
        iterate: from stacks to the stack of results, one matrix by itself.
        x: (batch, n, n).
        others: (batch, ...).
    """
    piece = max(_PIECE // max(x.shape[1:].numel(), 1), 1)
    if x.device.type != "cpu" or len(x) <= piece:
        return iterate(x, *others)
    parts = zip(*(t.split(piece) for t in (x, *others)), strict=True)
    return torch.cat([iterate(*part) for part in parts])
