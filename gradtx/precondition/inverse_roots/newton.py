"""Coupled Newton iterations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ...core.fields import static
from ...ops.symmetric_product import symmetric_product
from .method import (
    LOW,
    WIDE,
    RootMethod,
    distance,
    identity,
    may_look,
    multiply,
    times_power,
    times_power_by_halves,
    with_ridge,
)
from .scaling import Scaling, frobenius

STOPS = ("matrix", "stack", "never")
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class coupled_newton(RootMethod):
    """Inverse roots by coupled Newton iterations, for whole p.

    With R = A + eps I, z = (p + 1) / (2 c): X = z^(1/p) I, M = z R, then ``W = (1 + 1/p) I - M/p``,
    ``X <- X W``, ``M <- W^p M``. About ln(c / l_min) / ln 2.4 + 3 iterations converge; fewer act as
    a floor under small eigenvalues.

    Args:
        steps: iterations at most, >= 1. The published DASH makes 10.
        tol: a matrix is done when no entry of ``|M - I|`` reaches this, >= 0.
        scaling: c, at least half of the largest eigenvalue: ``gx.inverse_roots.frobenius`` or
            ``power_iteration``.
        matmul_dtype: float16 or bfloat16 for the products that M is made of; sums, W and X stay
            as they are.
        stop: when iterations end: "matrix" for each by itself, "stack" when all are done, "never".
        halves: compute one half of every product, which is symmetric but for rounding, and mirror
            it: about half the time and up to twice the error. Not with ``matmul_dtype``.
        dtype: float64 to compute in float64 with float32 matrices; None for their own dtype.

    Raises:
        ValueError: a value outside its range.

    Source: Guo and Higham 2006; arXiv 2309.06497, 2602.02016.

    >>> import torch, gradtx as gx
    >>> a = torch.diag(torch.tensor([16.0, 81.0]))[None]
    >>> newton = gx.inverse_roots.coupled_newton(steps=20)
    >>> gx.matrix_root(a, 4, newton).root.diagonal(dim1=1, dim2=2)
    tensor([[0.5000, 0.3333]])
    """

    roots: ClassVar[str] = "integer"

    steps: int = static(40, at_least=1)
    tol: float = static(1e-6, within="[0, inf)")
    scaling: Scaling = field(default_factory=frobenius)
    matmul_dtype: torch.dtype | None = static(None, choices=LOW)
    stop: str = static("matrix", choices=STOPS)
    dtype: torch.dtype | None = static(None, choices=WIDE)
    halves: bool = False

    def __post_init__(self) -> None:
        if self.halves and self.matmul_dtype is not None:
            raise ValueError("coupled_newton: halves and matmul_dtype exclude each other")

    @property
    def pieces(self) -> bool:  # type: ignore[override]
        return self.stop != "stack"

    def root(self, a: Tensor, ridge: float | Tensor, p: float, start: Tensor | None) -> Tensor:
        r = with_ridge(a, ridge)
        power, low = int(p), self.matmul_dtype
        z = (power + 1) / (2 * self.scaling(r, start))  # (batch, 1, 1)
        x = (z ** (1 / power)).to(a.dtype) * identity(a).expand_as(a)
        m = z.to(a.dtype) * r

        def step(x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
            w = m / -power
            w.diagonal(dim1=-2, dim2=-1).add_(1 + 1 / power)
            if self.halves:
                return symmetric_product(x, w), times_power_by_halves(w, power, m)
            return multiply(x, w), times_power(w, power, m, low)

        return iterate(step, x, m, self.steps, self.tol, self.stop)


def iterate(step: Step, x: Tensor, m: Tensor, steps: int, tol: float, stop: str) -> Tensor:
    """Steps until every matrix is done, x and m (batch, n, n), those that are done unchanged.

    A matrix is done when no entry of ``|m - I|`` reaches tol. Where values may be looked at, only
    the others go on.
    """
    looking = may_look(x)
    if stop == "never":
        for _ in range(steps):
            x, m = step(x, m)
        return x
    if looking:
        return _shrinking(step, x, m, steps, tol, stop)
    done = torch.zeros_like(x[:, :1, :1], dtype=torch.bool)
    for _ in range(steps):
        new_x, new_m = step(x, m)
        x, m = torch.where(done, x, new_x), torch.where(done, m, new_m)
        near = distance(m) < tol
        done = done | (near if stop == "matrix" else near.all())
    return x


def _shrinking(step: Step, x: Tensor, m: Tensor, steps: int, tol: float, stop: str) -> Tensor:
    """The same, with the matrices that are done taken out of the stack."""
    out, rows = x, None
    for _ in range(steps):
        x, m = step(x, m)
        near = (distance(m) < tol)[:, 0, 0]
        if near.all():
            break
        if stop == "matrix" and near.any():
            out = x if rows is None else out.index_copy(0, rows, x)
            left = (~near).nonzero()[:, 0]
            rows = left if rows is None else rows[left]
            x, m = x[left], m[left]
    return x if rows is None else out.index_copy(0, rows, x)
