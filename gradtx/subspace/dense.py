"""What kinds with a stored dense basis share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.random import Seed, derived_key, next_key, normal, seed_field
from ..core.tree import accumulator_dtype
from ..ops import random_normal
from .one_sided import OneSided
from .projector import finite_or_zero, keep_if_bad
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
class VectorsProjector(DenseProjector):
    """A dense projector whose basis comes from a decomposition; define ``vectors``.

    Leaves of one shape are decomposed as one batch.
    """

    thin = True

    def vectors(self, x: Tensor, states: list[Any], view: View) -> Tensor:
        """The bases of matrices, (batch, size, length) without anything that is not finite."""
        raise NotImplementedError

    def after(self, state: Any, basis: Tensor) -> Any:
        """The state that follows, with a new basis."""
        return Basis(basis)

    def fresh(self, state: Any, x: Tensor, view: View, first: Tensor | bool) -> Any:
        return self._decomposed([state], [x], view, [first])[0]

    def refresh_all(
        self, states: list[Any], gs: list[Tensor], firsts: list[Tensor | bool]
    ) -> list[Any]:
        groups: dict[Any, list[int]] = {}
        for i, g in enumerate(gs):
            # A large decomposition gains nothing from a batch on the CPU.
            alone = i if g.device.type == "cpu" and g.numel() >= 2**16 else None
            groups.setdefault((g.shape, g.dtype, g.device, alone), []).append(i)
        new = list(states)
        for members in groups.values():
            for i in members:
                view = self.check(states[i], gs[i].shape)
            olds, flags = [states[i] for i in members], [firsts[i] for i in members]
            xs = [view.upright(gs[i].detach()) for i in members]
            for i, s in zip(members, self._decomposed(olds, xs, view, flags), strict=True):
                new[i] = s
        return new

    def _decomposed(
        self, states: list[Any], xs: list[Tensor], view: View, firsts: list[Tensor | bool]
    ) -> list[Any]:
        q = self.vectors(stacked([finite_or_zero(x) for x in xs]), states, view)
        return [
            self.after(s, keep_if_bad(new.to(s.basis.dtype), s.basis, x, first))
            for s, new, x, first in zip(states, q, xs, firsts, strict=True)
        ]


@dataclass(frozen=True, repr=False)
class SketchProjector(VectorsProjector):
    """A projector that multiplies the gradient by a random matrix first."""

    seed: Seed = seed_field()

    def init(self, p: Tensor, name: str = "") -> KeyedBasis:
        return KeyedBasis(leaf_key(self.seed, p, name), self.zeros(p, name))

    def sketch(self, x: Tensor, states: list[Any], view: View) -> Tensor:
        """The matrices times random ones, (batch, size, columns of the sketch)."""
        return x @ stacked([self.omega(s.key, x, view) for s in states])

    def omega(self, key: Tensor, x: Tensor, view: View) -> Tensor:
        """A random matrix, (length, columns of the sketch)."""
        return normal_numbers(key, (view.length, self.width(view)), x.dtype)

    def width(self, view: View) -> int:
        """Columns of the sketch."""
        return view.rank

    def after(self, state: Any, basis: Tensor) -> KeyedBasis:
        return KeyedBasis(next_key(state.key), basis)


def stacked(xs: list[Tensor]) -> Tensor:
    """The tensors as one batch; one alone is not copied."""
    return xs[0][None] if len(xs) == 1 else torch.stack(xs)


def leaf_key(seed: Seed, p: Tensor, name: str) -> Tensor:
    """The key of a leaf: its random numbers are its own."""
    if p.is_meta:  # only the structure counts
        return torch.empty(2, dtype=torch.int64, device=p.device)
    return derived_key(seed, name, p.device)


def normal_numbers(key: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """``core.random.normal``, in float32 through the operator that has a kernel."""
    if dtype == torch.float32:
        return random_normal(key, shape[0] * shape[1]).reshape(shape)
    return normal(key, shape, dtype)
