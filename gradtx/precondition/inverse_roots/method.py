"""What a method of inverse roots is, and the products that all of them are made of."""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from ...core.plain import Plain
from ...core.watch import is_watched
from ...ops.symmetric_product import product, symmetric_product

LOW = (None, torch.float16, torch.bfloat16)
WIDE = (None, torch.float64)
DENOMINATOR = 10  # the largest of rational roots


class RootMethod(Plain):
    """Base class of methods: frozen dataclasses that turn stacks into inverse roots."""

    dtype: torch.dtype | None = None  # what is computed in, None for that of the stack
    pieces: ClassVar[bool] = False  # whether stacks may be taken apart to stay in a cache
    roots: ClassVar[str] = "any"  # or "rational", "integer", "2 or 4"

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def drops_zeros(self) -> bool:
        """Whether directions without any size have no part in the root."""
        return False

    def check(self, p: float) -> None:
        """Raise ValueError unless the method knows this root."""
        near = Fraction(p).limit_denominator(DENOMINATOR)
        allowed = {
            "any": True,
            "rational": near > 0 and abs(near - Fraction(p)) < 1e-6,
            "integer": float(p).is_integer(),
            "2 or 4": p in (2, 4),
        }
        if not allowed[self.roots]:
            raise ValueError(f"{self.name}: p must be {self.roots}, got {p}")

    def root(self, a: Tensor, ridge: float | Tensor, p: float, start: Tensor | None) -> Tensor:
        """The inverse p-th roots of ``a + ridge I``.

        Args:
            a: (batch, n, n), finite, no matrix of zeros alone, n >= 1.
            ridge: number or (batch, 1, 1).
            p: a root that `check` accepts.
            start: vectors for a power iteration, (batch, n, vectors).
        """
        raise NotImplementedError


def identity(a: Tensor) -> Tensor:
    """(n, n) in the dtype and on the device of (batch, n, n)."""
    return torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)


def with_ridge(a: Tensor, ridge: float | Tensor) -> Tensor:
    """``a + ridge I``."""
    if isinstance(ridge, float) and ridge == 0:
        return a
    return a + ridge * identity(a)


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
    x, y = x.to(low), y.to(low)
    if x.is_cuda and not is_watched(x, y, c):
        out = torch.bmm(x, y, out_dtype=torch.float32)
        out = out if alpha == 1.0 else alpha * out
        return out if c is None else out + beta * c
    return product(x.float(), y.float(), c, beta, alpha)


def square(w: Tensor, low: torch.dtype | None = None) -> Tensor:
    """``w w``; rounded to `low`, ``w w^T``, of which half is computed and mirrored."""
    if low is None:
        return product(w, w)  # w w^T, or a mirrored half, let iterations diverge
    if low == torch.bfloat16:
        return symmetric_product(w, w.mT, mixed=True)
    return multiply(w, w.mT, low=low)


def times_power_by_halves(w: Tensor, p: int, m: Tensor) -> Tensor:
    """``w^p m`` as ``times_power``, of whose products one half is computed and mirrored."""
    if p == 1:
        return symmetric_product(w, m)
    squared = symmetric_product(w, w.mT)
    if p == 4:
        return symmetric_product(squared, symmetric_product(squared, m))
    return times_power_by_halves(squared, p // 2, symmetric_product(w, m) if p % 2 else m)


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


def distance(m: Tensor) -> Tensor:
    """The largest entry of ``|m - I|`` of every matrix, (batch, 1, 1)."""
    return (m - identity(m)).abs().amax((-2, -1), keepdim=True)


def may_look(x: Tensor) -> bool:
    """Whether values may be looked at: on the CPU, where nothing follows the computation."""
    return x.device.type == "cpu" and not is_watched(x) and not _is_fake(x)


def _is_fake(x: Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(x, FakeTensor)
