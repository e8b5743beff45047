"""Random signs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import random_bits
from .gaussian import SeededProjector


@dataclass(frozen=True, repr=False)
class rademacher(SeededProjector):
    """Random signs over sqrt(rank): E[Q Q^T] is the identity; nothing but a seed is kept.

    Args:
        rank: number of vectors, at most the size of the compressed dimension.
        side: see ``svd``.
        clip_rank: take the largest possible rank where ``rank`` is larger.
        matricize: take leaves with more than two dimensions as first against all others.
        seed: of the signs, together with the leaf's name.

    Raises:
        ValueError: a value outside its range.

    >>> import torch, gradtx as gx
    >>> projector, p = gx.subspace.rademacher(4), torch.ones(8, 5)
    >>> projector.basis(projector.init(p), p.shape).abs().unique()
    tensor([0.5000])
    """

    def draw(self, key: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        bits = random_bits(key, shape[0] * shape[1]).reshape(shape) & 1
        return (1 - 2 * bits).to(dtype)
