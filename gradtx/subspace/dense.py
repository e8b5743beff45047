"""What kinds with a stored dense basis share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.random import check_seed, fold_in, make_key, next_key, normal
from ..core.tree import accumulator_dtype
from .one_sided import OneSided
from .view import View


class Basis(NamedTuple):
    """Attributes: ``basis``, (size, rank), zeros before the first refresh."""

    basis: Tensor


class KeyedBasis(NamedTuple):
    """Attributes: ``key``, int64 (2,), seed and refreshes; ``basis``, (size, rank)."""

    key: Tensor
    basis: Tensor


@dataclass(frozen=True, repr=False)
class DenseProjector(OneSided):
    """A projector whose state has a field ``basis``; define ``fresh``."""

    def init(self, p: Tensor, name: str = "") -> Any:
        return Basis(self.zeros(p, name))

    def zeros(self, p: Tensor, name: str) -> Tensor:
        """A basis before the first refresh."""
        view = self.view(p.shape, name)
        return p.new_zeros(view.size, view.rank, dtype=accumulator_dtype(p.dtype))

    def basis(self, state: Any, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        return state.basis.to(dtype or state.basis.dtype)


@dataclass(frozen=True, repr=False)
class SketchProjector(DenseProjector):
    """A dense projector that multiplies the gradient by a random matrix first."""

    data_dependent = True
    thin = True

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.name, self.seed)

    def init(self, p: Tensor, name: str = "") -> KeyedBasis:
        return KeyedBasis(leaf_key(self.seed, p, name), self.zeros(p, name))

    def omega(self, key: Tensor, x: Tensor, view: View) -> Tensor:
        """The random matrix, (length, columns of the sketch)."""
        return normal(key, (view.length, self.width(view)), x.dtype)

    def width(self, view: View) -> int:
        """Columns of the sketch."""
        return view.rank

    def fresh(self, state: Any, x: Tensor, view: View, first: Tensor | bool) -> KeyedBasis:
        new = self.sketched(state, x, view, first).to(state.basis.dtype)
        return KeyedBasis(next_key(state.key), new)

    def sketched(self, state: Any, x: Tensor, view: View, first: Tensor | bool) -> Tensor:
        """The new basis."""
        raise NotImplementedError


def leaf_key(seed: int, p: Tensor, name: str) -> Tensor:
    """The key of a leaf: its random numbers are its own."""
    return fold_in(make_key(seed, device=p.device), name)
