"""Rows at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.random import Seed, next_key, seed_field
from ..ops import random_bits
from .dense import leaf_key
from .selection import KeyedSelected, SelectionProjector
from .view import View


@dataclass(frozen=True, repr=False)
class uniform(SelectionProjector):
    """Some rows (or columns) of the gradient, all equally likely.

    Args:
        rank: how many, at most the size of the compressed dimension.
        side: see ``svd``; "larger" by default, so that little is kept.
        clip_rank: take the largest possible rank where ``rank`` is larger.
        matricize: take leaves with more than two dimensions as first against all others.
        seed: of the choice, together with the leaf's name.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2411.07120.

    >>> import torch, gradtx as gx
    >>> projector, g = gx.subspace.uniform(2), torch.ones(4, 3)
    >>> state = projector.refresh(projector.init(g), g)
    >>> projector.back(state, projector.project(state, g), g.shape).sum()
    tensor(6.)
    """

    seed: Seed = seed_field()

    def init(self, p: Tensor, name: str = "") -> KeyedSelected:
        return KeyedSelected(leaf_key(self.seed, p, name), self.leading(p, name))

    def fresh(self, state: Any, x: Tensor, view: View, first: Tensor | bool) -> KeyedSelected:
        return KeyedSelected(next_key(state.key), choose(state.key, view.size, view.rank))


def choose(key: Tensor, size: int, count: int) -> Tensor:
    """Distinct indices below ``size`` in random order."""
    return random_bits(key, size).argsort(stable=True)[:count]
