"""Coupled Newton iterations of higher order."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from ...core.fields import static
from ...ops.matrix_powers import distance, identity, may_look, multiply, times_power
from .method import DENOMINATOR, WIDE, RootMethod, with_ridge


@dataclass(frozen=True)
class higher_order_newton(RootMethod):
    """Inverse roots by coupled inverse Newton iterations of higher order, for p = s / q.

    With R = A + eps I from z = 1 / trace(R): X = z^(1/p) I, M = z R; one plain Newton step, then
    ``W = sum_i b_i (I - M)^i`` up to the order less one, ``X <- X W``, ``M <- W^p M``, b_0 = 1,
    b_i = b_(i-1) (1 + (i-1) p) / (i p). A matrix is done when ``|M - I|_max <= tol``, or before a
    step that makes this 1.2 times as large, or leaves a value below 1e-3 as it is. Of p = s / q the
    s-th root is taken and raised to the power q.

    Args:
        order: of the iteration, >= 2; 2 is Newton's own.
        steps: at most, the plain one included, >= 1.
        tol: see above, >= 0.
        max_residual: roots for which ``|X^p R - I|_max`` is larger become NaN, which fails, > 0.
        dtype: float64 to compute in float64 with float32 matrices; None for their own dtype.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2309.06497 and its code.

    >>> import torch, gradtx as gx
    >>> a = torch.diag(torch.tensor([16.0, 81.0]))[None]
    >>> gx.matrix_root(a, 4 / 3, "higher_order_newton").root.diagonal(dim1=1, dim2=2)
    tensor([[0.1250, 0.0370]])
    """

    roots: ClassVar[str] = "rational"

    order: int = static(3, at_least=2)
    steps: int = static(100, at_least=1)
    tol: float = static(1e-8, within="[0, inf)")
    max_residual: float = static(0.1, within="(0, inf]")
    dtype: torch.dtype | None = static(None, choices=WIDE)

    def root(self, a: Tensor, ridge: float | Tensor, p: float, start: Tensor | None) -> Tensor:
        fraction = Fraction(p).limit_denominator(DENOMINATOR)
        r = with_ridge(a, ridge)
        x = self._iterated(r, fraction.numerator)
        near = distance(times_power(x, fraction.numerator, r)) <= self.max_residual
        x = torch.where(near, x, torch.nan)
        q = fraction.denominator
        return x if q == 1 else times_power(x, q - 1, x)

    def _iterated(self, r: Tensor, p: int) -> Tensor:
        z = 1 / r.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
        x, m = z ** (1 / p) * identity(r).expand_as(r), z * r
        x, m = self._step(x, m, p, 2)
        error = distance(m)
        done = error <= self.tol
        for _ in range(self.steps - 1):
            if may_look(x) and done.all():
                break
            new_x, new_m = self._step(x, m, p, self.order)
            new = distance(new_m)
            worse = (new > 1.2 * error) | ((new == error) & (error < 1e-3))
            done = done | worse | ~new.isfinite()
            x, m = torch.where(done, x, new_x), torch.where(done, m, new_m)
            error = torch.where(done, error, new)
            done = done | (error <= self.tol)
        return x

    def _step(self, x: Tensor, m: Tensor, p: int, order: int) -> tuple[Tensor, Tensor]:
        factors = [1.0]
        for i in range(1, order):
            factors.append(factors[-1] * (1 + (i - 1) * p) / (i * p))
        one = identity(m)
        off = one - m
        w = factors[-1] * off + factors[-2] * one
        for factor in factors[-3::-1]:
            w = multiply(off, w, one.expand_as(m), factor)
        return multiply(x, w), times_power(w, p, m)
