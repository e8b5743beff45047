"""Coupled Newton iterations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ...core.fields import static
from ...ops.coupled_newton import coupled_newton as iterations
from .method import LOW, WIDE, RootMethod, with_ridge
from .scaling import Scaling, frobenius

STOPS = ("matrix", "stack", "never")


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
            it: about half the time and up to twice the error. Not with float16.
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
        if self.halves and self.matmul_dtype == torch.float16:
            raise ValueError("coupled_newton: halves and float16 exclude each other")

    def root(self, a: Tensor, ridge: float | Tensor, p: float, start: Tensor | None) -> Tensor:
        r = with_ridge(a, ridge)
        power = int(p)
        z = (power + 1) / (2 * self.scaling(r, start))  # (batch, 1, 1)
        return iterations(
            z.to(a.dtype) * r,
            (z ** (1 / power)).to(a.dtype)[:, 0, 0],
            power,
            self.steps,
            0.0 if self.stop == "never" else self.tol,
            self.matmul_dtype,
            self.halves,
            together=self.stop == "stack",
        )
