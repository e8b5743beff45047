"""Compression of matrices to a low rank by a power iteration that survives zeros."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core import decompositions
from ..core.errors import TreeMismatchError
from ..core.fields import static
from ..core.leaves import LowRankUpdate
from ..core.random import Seed, derived_key, normal, seed_field
from ..core.roots import divide_by_sum, vector_norm
from ..core.tree import accumulator_dtype
from .compressor import Compressor, Payload


class PowerIterationState(NamedTuple):
    """Attributes: ``basis``, (min(m, n), rank), where the next power iteration starts."""

    basis: Tensor


@dataclass(frozen=True, repr=False)
class power_iteration(Compressor):
    """Keep a matrix of low rank, found by power iteration along its larger dimension.

    P = orthonormal columns of X Q and W = X^T P, several times; X ≈ P W^T, and W with columns of
    length one is the next Q. A wide matrix is taken transposed. Zeros leave Q as it is, numbers
    that are not finite become zero. For automatic differentiation P and W are constants of X's
    directions: only the product with X is differentiated.

    Args:
        fraction: of the smaller dimension, in (0, 1]: the rank, rounded up.
        multiple_of: round the rank up to a multiple of this, but not above the dimension; >= 1.
        iterations: power iterations an update, >= 1.
        eps: added to the lengths of columns, >= 0.
        seed: of the first Q, normal numbers.

    Raises:
        ValueError: a value outside its range, or a leaf that is no matrix.

    Source: arXiv 2504.05295.

    >>> import torch, gradtx as gx
    >>> c, x = gx.compressors.power_iteration(0.5), torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    >>> payload, _ = c.compress(x, c.init(x))
    >>> payload.factor.shape, bool((c.residual(x, payload).abs() < 1e-6).all())
    (torch.Size([1, 2]), True)
    """

    fraction: float = static(1.0, within="(0, 1]")
    multiple_of: int = static(1, at_least=1)
    iterations: int = static(1, at_least=1)
    eps: float = static(1e-8, within="[0, inf)")
    seed: Seed = seed_field()

    def basis_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Shape of Q for a matrix of this shape.

        Raises:
            ValueError: the shape is no matrix's.
        """
        if len(shape) != 2:
            raise ValueError(
                f"power_iteration: needs a matrix, got shape {tuple(shape)}; use gx.as_matrices"
            )
        least = min(shape)
        rank = math.ceil(self.fraction * least / self.multiple_of) * self.multiple_of
        return least, min(rank, least)

    def init(self, p: Tensor, name: str = "") -> PowerIterationState:
        key = derived_key(self.seed, name, p.device)
        shape = self.basis_shape(tuple(p.shape))
        return PowerIterationState(normal(key, shape, accumulator_dtype(p.dtype)))

    def compress(
        self, x: Tensor, state: PowerIterationState
    ) -> tuple[Payload, PowerIterationState]:
        shape = tuple(x.shape)
        if tuple(state.basis.shape) != self.basis_shape(shape):
            raise TreeMismatchError(
                f"power_iteration: a leaf of shape {shape} needs a basis of shape "
                f"{self.basis_shape(shape)}, the state has {tuple(state.basis.shape)}"
            )
        wide = shape[0] < shape[1]
        upright = x.mT if wide else x
        seen = torch.nan_to_num(upright.detach(), nan=0.0, posinf=0.0, neginf=0.0)
        old = state.basis.to(x.dtype)
        nothing = (seen == 0).all()
        basis, left = old, seen.new_zeros((seen.shape[0], old.shape[1]))
        for _ in range(self.iterations):
            left = decompositions.qr(seen @ basis).Q  # (rows, rank)
            basis = seen.mT @ left  # (columns, rank)
        left = torch.where(nothing, torch.zeros_like(left), left)
        other = torch.where(nothing, old, upright.mT @ left)
        length = vector_norm(basis, dim=0)
        basis = torch.where(nothing, old, divide_by_sum(basis, length, self.eps))
        new = PowerIterationState(basis.to(state.basis.dtype))
        if wide:
            return LowRankUpdate(other, left, shape, "right"), new
        return LowRankUpdate(other.mT, left, shape, "left"), new
