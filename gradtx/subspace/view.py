"""A leaf as a matrix of which one dimension is compressed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

SIDES = ("std", "std_left", "reverse_std", "left", "right", "larger")


@dataclass(frozen=True)
class View:
    """The geometry of one projected leaf.

    Attributes:
        shape: of the leaf.
        rows, columns: of the matrix that stands for it: its first dimension, and all others.
        axis: the compressed dimension of the matrix, 0 ("left") or 1 ("right").
        rank: how many coordinates are left of it.
    """

    shape: tuple[int, ...]
    rows: int
    columns: int
    axis: int
    rank: int

    @property
    def size(self) -> int:
        """Length d of the compressed dimension."""
        return self.rows if self.axis == 0 else self.columns

    @property
    def length(self) -> int:
        """Length of the other dimension."""
        return self.columns if self.axis == 0 else self.rows

    @property
    def factor_shape(self) -> tuple[int, int]:
        """Shape of what the projection leaves, in the orientation of the parameter."""
        return (self.rank, self.columns) if self.axis == 0 else (self.rows, self.rank)

    def upright(self, leaf: Tensor) -> Tensor:
        """The leaf as (size, length), the compressed dimension first."""
        matrix = leaf.reshape(self.rows, self.columns)
        return matrix if self.axis == 0 else matrix.mT


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """A leaf of at least two dimensions as (first, product of the others)."""
    return shape[0], math.prod(shape[1:])
