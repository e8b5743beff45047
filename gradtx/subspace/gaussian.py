"""Random matrices that are made anew from a seed whenever they are needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.random import Seed, next_key, seed_field
from .dense import leaf_key, normal_numbers
from .one_sided import OneSided
from .view import View


class Seeded(NamedTuple):
    """Attributes: ``key``, int64 (2,), seed and refreshes; the basis follows from it."""

    key: Tensor


@dataclass(frozen=True, repr=False)
class SeededProjector(OneSided):
    """A basis of random numbers that is not stored; define ``draw``."""

    orthonormal = False

    seed: Seed = seed_field()

    def init(self, p: Tensor, name: str = "") -> Seeded:
        self.view(p.shape, name)
        return Seeded(leaf_key(self.seed, p, name))

    def fresh(self, state: Any, x: Tensor, view: View, first: Tensor | bool) -> Seeded:
        return Seeded(next_key(state.key))

    def basis(self, state: Any, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        view = self.view(shape)
        raw = self.draw(state.key, (view.size, view.rank), dtype or torch.float32)
        return raw / math.sqrt(view.rank)

    def draw(self, key: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Random numbers of variance one."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class gaussian(SeededProjector):
    """Normal numbers over sqrt(rank): E[Q Q^T] is the identity; nothing but a seed is kept.

    Args:
        rank: number of vectors, at most the size of the compressed dimension.
        side: see ``svd``.
        clip_rank: take the largest possible rank where ``rank`` is larger.
        matricize: take leaves with more than two dimensions as first against all others.
        seed: of the numbers, together with the leaf's name.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2412.05270.

    >>> import torch, gradtx as gx
    >>> projector, p = gx.subspace.gaussian(3), torch.ones(8, 5)
    >>> projector.project(projector.init(p), p).shape
    torch.Size([8, 3])
    """

    def draw(self, key: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        return normal_numbers(key, shape, dtype)
