"""Chebyshev polynomials, summed by Clenshaw's recurrence."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...core.constants import constant
from ...core.fields import static
from ...ops.clenshaw import clenshaw
from ...ops.matrix_powers import identity
from .method import LOW, RootMethod, with_ridge
from .scaling import Scaling, frobenius

NODES = 10_000


@dataclass(frozen=True)
class chebyshev(RootMethod):
    """Approximate inverse roots by a polynomial of fixed degree, any p > 0.

    The Chebyshev series of ``x^(-1/p)`` on [resolution, 1 + resolution] at R / c + resolution I,
    R = A + eps I, summed by Clenshaw's recurrence: degree - 1 products. The result tends to
    ``(R + c resolution I)^(-1/p)``, the better the larger the resolution.

    Args:
        degree: of the polynomial, >= 1.
        resolution: eigenvalues below c times this are not told apart, > 0.
        scaling: c, at least the largest eigenvalue.
        matmul_dtype: float16 or bfloat16 for the factors of products.
        rescale: False leaves out the factor c^(-1/p), as the published code does.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2602.02016.

    >>> import torch, gradtx as gx
    >>> a = torch.diag(torch.tensor([16.0, 81.0]))[None]
    >>> gx.matrix_root(a, 4, gx.inverse_roots.chebyshev(60)).root.diagonal(dim1=1, dim2=2)
    tensor([[0.4989, 0.3331]])
    """

    degree: int = static(60, at_least=1)
    resolution: float = static(1e-3, within="(0, inf)")
    scaling: Scaling = field(default_factory=frobenius)
    matmul_dtype: torch.dtype | None = static(None, choices=LOW)
    rescale: bool = True

    def root(self, a: Tensor, ridge: float | Tensor, p: float, start: Tensor | None) -> Tensor:
        r = with_ridge(a, ridge)
        c = self.scaling(r, start)  # (batch, 1, 1)
        s = (2 / c).to(r.dtype) * r - identity(r)
        b = clenshaw(s, coefficients(self.degree, self.resolution, float(p)), self.matmul_dtype)
        return b * c.to(r.dtype) ** (-1 / p) if self.rescale else b


@constant
def coefficients(degree: int, resolution: float, p: float) -> tuple[float, ...]:
    """Those of ``x^(-1/p)`` on [resolution, 1 + resolution], c_0 halved, in float32."""
    return _coefficients(degree, resolution, p)


@functools.lru_cache(maxsize=64)
def _coefficients(degree: int, resolution: float, p: float) -> tuple[float, ...]:
    angles = np.pi * (np.arange(NODES) + 0.5) / NODES
    values = (np.cos(angles) / 2 + (1 + 2 * resolution) / 2) ** (-1 / p)
    series = 2 / NODES * np.cos(np.arange(degree + 1)[:, None] * angles) @ values
    series[0] /= 2
    return tuple(float(x) for x in series.astype(np.float32))
