"""Subspaces of one side of a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.errors import TreeMismatchError
from ..core.fields import static
from ..core.leaves import LowRankUpdate
from ..ops import coordinates, coordinates_squares
from ..ops.basis import axis_of
from ..ops.coordinates import has_squares
from .projector import Projector, Rotation
from .view import SIDES, View, matrix_shape


@dataclass(frozen=True, repr=False)
class OneSided(Projector):
    """Base class of projectors of a matrix's columns or rows.

    X is the leaf with its compressed dimension first, (size, length), and Q a basis, (size, rank).
    Subclass it as a frozen dataclass and define ``init``, ``fresh`` and ``basis``; ``down`` and
    ``up`` where there is a shorter way to multiply. State tensors are contiguous.

    Attributes:
        thin: whether there are no more basis vectors than the smaller dimension.
    """

    thin: ClassVar[bool] = False

    rank: int = static(at_least=1)
    side: str = static("std", choices=SIDES)
    clip_rank: bool = False
    matricize: bool = False

    # -- what a kind defines -------------------------------------------------------------------

    def fresh(self, state: Any, x: Tensor, view: View, first: Tensor | bool) -> Any:
        """The state with a new subspace for ``x``, (size, length)."""
        raise NotImplementedError

    def basis(self, state: Any, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """Q as a dense matrix (size, rank)."""
        raise NotImplementedError

    # -- what all have -------------------------------------------------------------------------

    def takes(self, shape: tuple[int, ...]) -> bool:
        return (len(shape) == 2 or (self.matricize and len(shape) > 2)) and 0 not in shape

    def view(self, shape: tuple[int, ...], name: str = "") -> View:
        """The geometry of a leaf.

        Raises:
            ValueError: the leaf is no matrix, or has fewer dimensions than the rank.
        """
        shape = tuple(shape)
        if not self.takes(shape):
            raise ValueError(
                f"{self.name}: leaf {name!r} of shape {shape} is no matrix that can be projected"
                + (
                    "; matricize=True takes its first dimension against the others"
                    * (len(shape) > 2)
                )
            )
        rows, columns = matrix_shape(shape)
        axis = axis_of(self.side, rows, columns)
        most = min(rows, columns) if self.thin else (rows, columns)[axis]
        rank = min(self.rank, most) if self.clip_rank else self.rank
        if rank > most:
            raise ValueError(
                f"{self.name}: rank must be <= {most} for leaf {name!r} of shape {shape}, got "
                f"{self.rank}; clip_rank=True takes what there is"
            )
        return View(shape, rows, columns, axis, rank)

    def factor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.view(shape).factor_shape

    def refresh(self, state: Any, g: Tensor, first: Tensor | bool = False) -> Any:
        view = self.check(state, g.shape)
        return self.fresh(state, view.upright(g.detach()), view, first)

    def project(self, state: Any, g: Tensor) -> Tensor:
        view = self.check(state, g.shape)
        return self.down(state, g.reshape(view.rows, view.columns), view)

    def back(self, state: Any, z: Tensor, shape: tuple[int, ...]) -> Tensor:
        view = self.view(shape)
        return self.up(state, z, view).reshape(view.shape)

    def measures(self, g: Tensor) -> bool:
        """Whether there is a kernel for ``project_measured``."""
        own = type(self).down is OneSided.down and type(self).project is OneSided.project
        return own and g.ndim == 2 and has_squares(g)

    def project_measured(self, state: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of a matrix, and the squared norms of what is projected, in float64."""
        view = self.check(state, g.shape)
        return coordinates_squares(g, self.basis(state, view.shape, g.dtype), view.axis == 0)

    def down(self, state: Any, matrix: Tensor, view: View) -> Tensor:
        """Coordinates of a matrix, as it lies: ``Q^T G`` or ``G Q``."""
        q = self.basis(state, view.shape, matrix.dtype)  # (size, rank)
        return coordinates(matrix, q, left=view.axis == 0)

    def up(self, state: Any, z: Tensor, view: View) -> Tensor:
        """The matrix with these coordinates: ``Q z`` or ``z Q^T``."""
        q = self.basis(state, view.shape, z.dtype)  # (size, rank)
        return q @ z if view.axis == 0 else z @ q.mT

    def rotation(self, old: Any, new: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Rotation:
        view = self.view(shape)
        r = self.basis(new, shape, dtype).mT @ self.basis(old, shape, dtype)  # (rank, rank)
        return Rotation(r, ()) if view.axis == 0 else Rotation((), r)

    def low_rank_update(self, state: Any, z: Tensor, shape: tuple[int, ...]) -> LowRankUpdate:
        side = "left" if self.view(shape).axis == 0 else "right"
        return LowRankUpdate(z, self.basis(state, shape, z.dtype), tuple(shape), side)

    def check(self, state: Any, shape: tuple[int, ...]) -> View:
        """The geometry, if the state was made for a leaf of this shape.

        Raises:
            TreeMismatchError: it was made for another one.
        """
        view = self.view(shape)
        want = self.shapes(view)
        for field, have in zip(state._fields, state, strict=True):
            if field in want and isinstance(have, Tensor) and tuple(have.shape) != want[field]:
                raise TreeMismatchError(
                    f"{self.name}: a leaf of shape {view.shape} needs a {field} of shape "
                    f"{want[field]}, the state has {tuple(have.shape)}"
                )
        return view

    def shapes(self, view: View) -> dict[str, tuple[int, ...]]:
        """Shapes of the state's fields that depend on the leaf's."""
        return {
            "basis": (view.size, view.rank),
            "indices": (view.rank,),
            "signs": (view.size,),
        }
