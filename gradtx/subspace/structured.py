"""Subspaces of fast transforms with random signs: Hadamard and cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.random import Seed, fold_in, next_key, random_bits, seed_field
from .cosine import cosines
from .dense import leaf_key
from .one_sided import OneSided
from .uniform import choose
from .view import View


class SignedSelected(NamedTuple):
    """Rows of a transform and the signs before it.

    Attributes:
        key: int64 (2,), seed and refreshes.
        indices: int64 (rank,), rows of the transform.
        signs: int8 (size,), 1 or -1.
    """

    key: Tensor
    indices: Tensor
    signs: Tensor


@dataclass(frozen=True, repr=False)
class _SignedTransform(OneSided):
    """Random rows of an orthonormal transform after random signs; define ``columns``."""

    seed: Seed = seed_field()

    def init(self, p: Tensor, name: str = "") -> SignedSelected:
        view = self.view(p.shape, name)
        return SignedSelected(
            leaf_key(self.seed, p, name),
            torch.arange(view.rank, dtype=torch.int64, device=p.device),
            torch.ones(view.size, dtype=torch.int8, device=p.device),
        )

    def fresh(self, state: Any, x: Tensor, view: View, first: Tensor | bool) -> SignedSelected:
        bits = random_bits(fold_in(state.key, "signs"), view.size) & 1
        return SignedSelected(
            next_key(state.key),
            choose(state.key, view.size, view.rank),
            (1 - 2 * bits).to(torch.int8),
        )

    def basis(self, state: Any, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        wide = dtype or torch.float32
        return (
            self.columns(state.indices, self.view(shape).size, wide) * state.signs.to(wide)[:, None]
        )

    def columns(self, indices: Tensor, size: int, dtype: torch.dtype) -> Tensor:
        """The chosen basis vectors of the transform, (size, rank), without the signs."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class srht(_SignedTransform):
    """Random rows of the Hadamard transform after random signs; rows are orthonormal.

    Q^T = P (H / sqrt(d)) D with H in natural order, P distinct random rows, D random signs.

    Args:
        rank: how many rows, at most the size of the compressed dimension.
        side: see ``svd``.
        clip_rank: take the largest possible rank where ``rank`` is larger.
        matricize: take leaves with more than two dimensions as first against all others.
        seed: of rows and signs, together with the leaf's name.

    Raises:
        ValueError: a compressed dimension that is no power of two (``srdct`` takes any), or a value
            outside its range.

    Source: arXiv 1011.1595.

    >>> import torch, gradtx as gx
    >>> projector, g = gx.subspace.srht(2), torch.randn(8, 4)
    >>> q = projector.basis(projector.refresh(projector.init(g), g), g.shape)
    >>> q.abs().unique(), torch.equal(q.mT @ q, torch.eye(2))
    (tensor([0.5000]), True)
    """

    def view(self, shape: tuple[int, ...], name: str = "") -> View:
        view = super().view(shape, name)
        if view.size & (view.size - 1):
            raise ValueError(
                f"srht: leaf {name!r} of shape {view.shape} has a compressed dimension of "
                f"{view.size}, which is no power of two; use srdct"
            )
        return view

    def columns(self, indices: Tensor, size: int, dtype: torch.dtype) -> Tensor:
        rows = torch.arange(size, dtype=torch.int64, device=indices.device)
        both = rows[:, None] & indices
        odd = torch.zeros_like(both)
        for shift in range(size.bit_length()):
            odd = odd ^ (both >> shift)
        return (1 - 2 * (odd & 1)).to(dtype) / math.sqrt(size)


@dataclass(frozen=True, repr=False)
class srdct(_SignedTransform):
    """Random frequencies of the discrete cosine transform after random signs.

    Q = D C[:, idx] with C the orthonormal transform of type 2; any size.

    Args:
        rank: how many frequencies, at most the size of the compressed dimension.
        side: see ``svd``.
        clip_rank: take the largest possible rank where ``rank`` is larger.
        matricize: take leaves with more than two dimensions as first against all others.
        seed: of frequencies and signs, together with the leaf's name.

    Raises:
        ValueError: a value outside its range.

    >>> import torch, gradtx as gx
    >>> projector, g = gx.subspace.srdct(2), torch.randn(8, 5)
    >>> q = projector.basis(projector.refresh(projector.init(g), g), g.shape)
    >>> bool(((q.mT @ q) - torch.eye(2)).abs().max() < 1e-6)
    True
    """

    def columns(self, indices: Tensor, size: int, dtype: torch.dtype) -> Tensor:
        rows = torch.arange(size, dtype=torch.int64, device=indices.device)
        return cosines(rows, indices, size, dtype)
