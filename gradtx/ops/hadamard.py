"""The operator ``gradtx::hadamard``: the fast Walsh-Hadamard transform of every row.

    hadamard(Tensor x) -> Tensor

With ``H[a, b] = (-1)^popcount(a & b) / sqrt(n)`` the result is ``x H`` along the last dimension,
whose length n is a power of two; H is its own inverse and transpose. n log2(n) additions in pairs
of distance 1, 2, 4, ..., then one product with 1/sqrt(n). Half precisions are computed in float32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gradtx.core.forward import forward_rule
from gradtx.ops.registry import applied, operator

__all__ = ["hadamard"]


def _check(x: Tensor) -> None:
    if not x.is_floating_point():
        raise ValueError(f"hadamard: x must have a floating dtype, got {x.dtype}")
    if x.ndim < 1 or x.shape[-1] & (x.shape[-1] - 1):
        raise ValueError(
            f"hadamard: the last dimension must be a power of two, got shape {tuple(x.shape)}"
        )


def _fake(x: Tensor) -> Tensor:
    _check(x)
    return x.new_empty(x.shape)


def _vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor) -> tuple[Tensor, int]:
    return _hadamard(x.movedim(in_dims[0], 0)), 0


def _butterflies(x: Tensor) -> Tensor:
    n = x.shape[-1]
    if not n:
        return torch.empty_like(x)
    wide = x.reshape(-1, n).to(torch.promote_types(x.dtype, torch.float32))
    half = 1
    while half < n:
        pairs = wide.reshape(-1, n // (2 * half), 2, half)
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        wide = torch.stack([a + b, a - b], dim=2).reshape(-1, n)
        half *= 2
    return (wide * (1 / math.sqrt(max(n, 1)))).to(x.dtype).reshape(x.shape)


@operator("hadamard(Tensor x) -> Tensor", fake=_fake, vmap=_vmap)
def _hadamard(x: Tensor) -> Tensor:
    """Transform along the last dimension; see the module's text."""
    _check(x)
    return _butterflies(x)


class _Reflection(torch.autograd.Function):
    """The operator for automatic differentiation: a symmetric orthogonal map."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _hadamard(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Reflection.apply(grad)

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, dx: Tensor) -> Tensor:
        return _Reflection.apply(dx)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor) -> tuple[Tensor, int]:
        return _Reflection.apply(x.movedim(in_dims[0], 0)), 0


def hadamard(x: Tensor) -> Tensor:
    """The orthonormal Walsh-Hadamard transform along the last dimension; differentiable.

    Args:
        x: floating tensor (..., n), n a power of two.

    Raises:
        ValueError: another dtype, a 0-d tensor or another length.

    >>> import torch, gradtx as gx
    >>> gx.ops.hadamard(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    _check(x)
    if torch.compiler.is_compiling():
        return _butterflies(x)
    return applied(_Reflection, x)
