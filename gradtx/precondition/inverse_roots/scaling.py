"""Bounds of the largest eigenvalue, by which iterations scale their matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ...core.fields import check_floating, static
from ...core.plain import Plain
from ...core.random import make_key, signs
from ...core.roots import vector_norm
from ...ops.matrix_powers import identity


@runtime_checkable
class Scaling(Protocol):
    """How a bound is found: a callable that can be hashed."""

    def __call__(self, r: Tensor, start: Tensor | None) -> Tensor:
        """Of (batch, n, n), the bounds (batch, 1, 1)."""


@dataclass(frozen=True)
class frobenius(Plain):
    """Scale by the Frobenius norm, which always bounds the largest eigenvalue.

    Args:
        dtype: of the norm; bfloat16 is what the published DASH has, and leaves a factor of up to
            1 + 2^-8 on the roots.

    Raises:
        ValueError: a dtype that is not floating.

    >>> import torch, gradtx as gx
    >>> gx.inverse_roots.frobenius()(torch.diag(torch.tensor([3.0, 4.0]))[None], None).item()
    5.0
    """

    dtype: torch.dtype | None = static(None, check=check_floating)

    def __call__(self, r: Tensor, start: Tensor | None) -> Tensor:
        x = r.to(self.dtype or r.dtype)
        # In a wider dtype, since the squares of large and of small numbers do not fit into one.
        wide = torch.float64 if x.dtype == torch.float32 else None
        norm = vector_norm(x, dim=(-2, -1), keepdim=True, dtype=wide)
        return norm.to(x.dtype)


@dataclass(frozen=True)
class power_iteration(Plain):
    """Scale by an estimate of the largest eigenvalue, closer than a norm for flat spectra.

    ``v <- R v / |R v|``, then ``c = safety * v^T R v``, the largest of several vectors. A norm
    exceeds the largest eigenvalue by up to sqrt(n), each factor of 2.25 of which costs an
    iteration more.

    Args:
        steps: multiplications, >= 1.
        safety: factor on the estimate, which is too small, > 1.
        eps: ridge in the iteration only, >= 0.
        vectors: start vectors of every matrix, >= 1; signs from a fixed stream of random numbers,
            unless the caller gives some.
        dtype: of the iteration.

    Raises:
        ValueError: a number outside its range.

    Source: arXiv 2602.02016.

    >>> import torch, gradtx as gx
    >>> gx.inverse_roots.power_iteration()(torch.diag(torch.tensor([3.0, 4.0]))[None], None).round()
    tensor([[[8.]]])
    """

    steps: int = static(10, at_least=1)
    safety: float = static(2.0, within="(1, inf)")
    eps: float = static(1e-6, within="[0, inf)")
    vectors: int = static(1, at_least=1)
    dtype: torch.dtype | None = static(None, check=check_floating)

    def __call__(self, r: Tensor, start: Tensor | None) -> Tensor:
        dtype = self.dtype or r.dtype
        low = r.to(dtype)
        low = low + self.eps * identity(low)
        v = self._signs(r) if start is None else start  # (batch, n, vectors)
        v = _normalized(v.to(dtype))
        for _ in range(self.steps):
            v = _normalized(low @ v)
        quotients = (v * (low @ v)).sum(-2, keepdim=True)  # (batch, 1, vectors)
        largest = quotients.amax(-1, keepdim=True)
        # The published code leaves bfloat16 where it takes the largest of several.
        return self.safety * (largest.to(r.dtype) if v.shape[-1] > 1 else largest)

    def _signs(self, r: Tensor) -> Tensor:
        n = r.shape[-1]
        drawn = signs(make_key(0, device=r.device), (n, self.vectors), r.dtype)
        return drawn.expand(r.shape[0], -1, -1)


def _normalized(v: Tensor) -> Tensor:
    return v / vector_norm(v, dim=-2, keepdim=True)
