"""Denman-Beavers iterations in product form, without inverses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ...core.fields import static
from .method import (
    LOW,
    WIDE,
    RootMethod,
    identity,
    multiply,
    with_ridge,
)
from .scaling import Scaling, frobenius


@dataclass(frozen=True)
class newton_db(RootMethod):
    """Inverse roots by Denman-Beavers iterations in product form, for p = 2 or 4.

    With R = A + eps I: Y = R / c, Z = I, then ``E = 1.5 I - 0.5 Z Y``, ``Y <- Y E``, ``Z <- E Z``.
    Y tends to the square root and Z to its inverse; the fourth root is the root of the root. About
    ln(c / l_min) / ln 2.25 + 4 iterations converge.

    Args:
        steps: iterations of a square root, >= 1. The published DASH makes 10.
        scaling: c, more than a third of the largest eigenvalue: ``gx.inverse_roots.frobenius`` or
            ``power_iteration``.
        matmul_dtype: float16 or bfloat16 for E, Y, Z and the factors of products. Not stable:
            bfloat16 fails for condition numbers of 1e5.
        dtype: float64 to compute in float64 with float32 matrices; None for their own dtype.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2602.02016.

    >>> import torch, gradtx as gx
    >>> a = torch.diag(torch.tensor([16.0, 81.0]))[None]
    >>> gx.matrix_root(a, 2, gx.inverse_roots.newton_db(20)).root.diagonal(dim1=1, dim2=2)
    tensor([[0.2500, 0.1111]])
    """

    roots: ClassVar[str] = "2 or 4"
    pieces: ClassVar[bool] = True

    steps: int = static(30, at_least=1)
    scaling: Scaling = field(default_factory=frobenius)
    matmul_dtype: torch.dtype | None = static(None, choices=LOW)
    dtype: torch.dtype | None = static(None, choices=WIDE)

    def root(self, a: Tensor, ridge: float | Tensor, p: float, start: Tensor | None) -> Tensor:
        r = with_ridge(a, ridge)
        c = self.scaling(r, start)  # (batch, 1, 1)
        y, z = self._roots(r, c)
        if p == 4:
            c = c.sqrt()
            _, z = self._roots(y * c.to(y.dtype), c)
        return z / c.sqrt().to(z.dtype)

    def _roots(self, r: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The square root of ``r / c`` and its inverse."""
        low = self.matmul_dtype
        k, one = r / c.to(r.dtype), identity(r).expand_as(r)
        e = 1.5 * one - 0.5 * k  # since Z is I the first step has one product
        y, z = multiply(k, e), e
        for _ in range(self.steps - 1):
            # Y, Z and E are kept in the lower dtype: products of what is rounded to it.
            e = multiply(_rounded(z, low), _rounded(y, low), one, 1.5, -0.5, low)
            y, z = multiply(y, e, low=low), multiply(e, z, low=low)
        return _rounded(y, low), _rounded(z, low)


def _rounded(x: Tensor, low: torch.dtype | None) -> Tensor:
    return x if low is None else x.to(low).to(x.dtype)
