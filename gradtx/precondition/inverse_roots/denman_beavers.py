"""Denman-Beavers iterations in product form, without inverses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ...core.fields import static
from ...ops.denman_beavers import denman_beavers as iterations
from .method import LOW, WIDE, RootMethod, with_ridge
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

    steps: int = static(30, at_least=1)
    scaling: Scaling = field(default_factory=frobenius)
    matmul_dtype: torch.dtype | None = static(None, choices=LOW)
    dtype: torch.dtype | None = static(None, choices=WIDE)

    def root(self, a: Tensor, ridge: float | Tensor, p: float, start: Tensor | None) -> Tensor:
        r = with_ridge(a, ridge)
        c = self.scaling(r, start)  # (batch, 1, 1)
        if p == 4:
            root = iterations(r / c.to(r.dtype), self.steps, False, self.matmul_dtype)
            c = c.sqrt()
            r = root * c.to(r.dtype)
        z = iterations(r / c.to(r.dtype), self.steps, True, self.matmul_dtype)
        return z / c.sqrt().to(z.dtype)
