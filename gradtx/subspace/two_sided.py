"""Both dimensions of a matrix at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .one_sided import OneSided
from .projector import Projector, Rotation


class TwoSided(NamedTuple):
    """Attributes: the states of both one-sided projectors."""

    left: Any
    right: Any


@dataclass(frozen=True, repr=False)
class two_sided(Projector):
    """Compress rows and columns: Z = Ql^T G Qr, and back Ql Z Qr^T.

    Args:
        left: projector of the first dimension; its side is set to "left".
        right: projector of the second dimension; None takes the kind of ``left``.

    Raises:
        TypeError: not a projector.

    Source: arXiv 2403.03507.

    >>> import torch, gradtx as gx
    >>> projector, g = gx.subspace.two_sided(gx.subspace.svd(2)), torch.randn(5, 4)
    >>> projector.project(projector.refresh(projector.init(g), g, first=True), g).shape
    torch.Size([2, 2])
    """

    left: OneSided
    right: OneSided | None = None

    @property
    def sides(self) -> tuple[OneSided, OneSided]:
        """The projectors of both dimensions."""
        right = self.left if self.right is None else self.right
        return (
            dataclasses.replace(self.left, side="left"),
            dataclasses.replace(right, side="right"),
        )

    def takes(self, shape: tuple[int, ...]) -> bool:
        return all(p.takes(shape) for p in self.sides)

    def factor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        left, right = (p.view(shape) for p in self.sides)
        return (left.rank, right.rank)

    def init(self, p: Tensor, name: str = "") -> TwoSided:
        left, right = self.sides
        return TwoSided(left.init(p, name + "/left"), right.init(p, name + "/right"))

    def refresh(self, state: Any, g: Tensor, first: Tensor | bool = False) -> TwoSided:
        left, right = self.sides
        return TwoSided(left.refresh(state.left, g, first), right.refresh(state.right, g, first))

    def project(self, state: Any, g: Tensor) -> Tensor:
        left, right = self.sides
        # (rank, columns) (columns, rank)
        return left.project(state.left, g) @ right.basis(state.right, tuple(g.shape), g.dtype)

    def back(self, state: Any, z: Tensor, shape: tuple[int, ...]) -> Tensor:
        left, right = self.sides
        # (rank, rank) (rank, columns)
        return left.back(state.left, z @ right.basis(state.right, shape, z.dtype).mT, shape)

    def rotation(self, old: Any, new: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Rotation:
        left, right = self.sides
        return Rotation(
            left.rotation(old.left, new.left, shape, dtype).left,
            right.rotation(old.right, new.right, shape, dtype).right,
        )
