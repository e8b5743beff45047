"""Compression of matrices to a low rank by power iteration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..core import decompositions
from ..core.errors import TreeMismatchError
from ..core.fields import static
from ..core.leaves import LowRankUpdate
from ..core.random import Seed, derived_key, normal, seed_field
from ..core.tree import accumulator_dtype
from .compressor import Compressor, Payload


class LowRankState(NamedTuple):
    """State of ``low_rank`` for one leaf.

    Attributes:
        basis: (n, rank), where the next power iteration starts; () for leaves kept whole.
    """

    basis: Tensor | tuple[()]


@dataclass(frozen=True, repr=False)
class low_rank(Compressor):
    """Keep a matrix of low rank, found by power iteration from where the last one ended.

    P = orthonormal columns of X Q, then X ≈ P (P^T X) and the next Q = (P^T X)^T. A leaf of shape
    (m, ...) is a matrix with m rows. Vectors, and matrices that would not become smaller, are kept
    whole; ``always`` compresses those matrices too. For automatic differentiation P is a constant.

    Args:
        rank: of what is kept, >= 1.
        iterations: power iterations an update, >= 1.
        seed: of the first Q, normal numbers.
        always: keep no matrix whole; the rank is at most its smaller dimension.

    Raises:
        ValueError: a number below 1.

    Source: arXiv 1905.13727.

    >>> import torch, gradtx as gx
    >>> c, x = gx.compressors.low_rank(1), torch.tensor([[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]])
    >>> payload, _ = c.compress(x, c.init(x))
    >>> payload.factor.shape, bool((c.residual(x, payload).abs() < 1e-6).all())
    (torch.Size([1, 2]), True)
    """

    rank: int = static(4, at_least=1)
    iterations: int = static(1, at_least=1)
    seed: Seed = seed_field()
    always: bool = False

    def basis_shape(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Columns of a leaf as a matrix, and the rank that is kept; None if it is kept whole."""
        if len(shape) < 2:
            return None
        m, n = shape[0], math.prod(shape[1:])
        if self.always and m and n:
            return n, min(self.rank, m, n)
        return (n, self.rank) if self.rank * (m + n) < m * n else None

    def init(self, p: Tensor, name: str = "") -> LowRankState:
        shape = self.basis_shape(tuple(p.shape))
        if shape is None:
            return LowRankState(())
        key = derived_key(self.seed, name, p.device)
        return LowRankState(normal(key, shape, accumulator_dtype(p.dtype)))

    def compress(self, x: Tensor, state: LowRankState) -> tuple[Payload, LowRankState]:
        if not self.applies(state):
            return x, state
        matrix, basis = self.start(x, state)
        for _ in range(self.iterations):
            left = decompositions.qr(matrix.detach() @ basis).Q  # (rows, rank)
            factor = left.mT @ matrix  # (rank, columns)
            basis = factor.detach().mT
        return self.kept(left, factor, x, state)

    def applies(self, state: LowRankState) -> bool:
        """Whether the leaf with this state is not kept whole."""
        return isinstance(state.basis, Tensor)

    def start(self, x: Tensor, state: LowRankState) -> tuple[Tensor, Tensor]:
        """The leaf as a matrix, and where its power iteration starts.

        Raises:
            TreeMismatchError: the state is that of a leaf of another shape.
        """
        shape = self.basis_shape(tuple(x.shape))
        assert isinstance(state.basis, Tensor)
        if shape is None or state.basis.shape != shape:
            raise TreeMismatchError(
                f"low_rank: a leaf of shape {tuple(x.shape)} needs a basis of shape "
                f"{shape}, the state has {tuple(state.basis.shape)}"
            )
        return x.reshape(x.shape[0], shape[0]), state.basis.to(x.dtype)

    def kept(
        self, left: Tensor, factor: Tensor, x: Tensor, state: LowRankState
    ) -> tuple[LowRankUpdate, LowRankState]:
        """The product of both factors as an update, and where the next iteration starts."""
        assert isinstance(state.basis, Tensor)
        basis = factor.detach().mT.to(state.basis.dtype)
        # A matrix of one column counts as contiguous with any stride; states have one form only.
        basis = basis.reshape(-1).reshape(basis.shape)
        return LowRankUpdate(factor, left, tuple(x.shape), "left"), LowRankState(basis)
