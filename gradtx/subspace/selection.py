"""What kinds that select rows of the gradient share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.errors import TreeMismatchError
from ..core.leaves import LowRankUpdate
from .one_sided import OneSided
from .view import View


class Selected(NamedTuple):
    """Attributes: ``indices``, int64 (rank,), rows of the upright matrix."""

    indices: Tensor


class KeyedSelected(NamedTuple):
    """Attributes: ``key``, int64 (2,), seed and refreshes; ``indices``, int64 (rank,)."""

    key: Tensor
    indices: Tensor


def row_norms(x: Tensor, p: float) -> Tensor:
    """The p-norm of every row; torch's takes ten times as long where columns lie side by side."""
    if p == 1:
        return x.abs().sum(1)
    return x.square().sum(1).sqrt() if p == 2 else x.norm(p=p, dim=1)


@dataclass(frozen=True, repr=False)
class SelectionProjector(OneSided):
    """A projector whose basis is columns of the identity; the state has a field ``indices``."""

    side: str = "larger"

    def init(self, p: Tensor, name: str = "") -> Any:
        return Selected(self.leading(p, name))

    def leading(self, p: Tensor, name: str) -> Tensor:
        """The first rows, before the first refresh."""
        rank = self.view(p.shape, name).rank
        return torch.arange(rank, dtype=torch.int64, device=p.device)

    def basis(self, state: Any, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        size = self.view(shape).size
        rows = torch.arange(size, dtype=torch.int64, device=state.indices.device)
        return (rows[:, None] == state.indices).to(dtype or torch.float32)

    def down(self, state: Any, matrix: Tensor, view: View) -> Tensor:
        try:
            return matrix.index_select(view.axis, state.indices)
        except IndexError as error:
            raise TreeMismatchError(
                f"{self.name}: a leaf of shape {view.shape} lacks rows or columns that the state "
                "has selected; it was made for a leaf of another shape"
            ) from error

    def up(self, state: Any, z: Tensor, view: View) -> Tensor:
        return z.new_zeros(view.rows, view.columns).index_add(view.axis, state.indices, z)

    def add_back(self, state: Any, g: Tensor, z: Tensor) -> Tensor:
        view = self.view(tuple(g.shape))
        matrix = g.reshape(view.rows, view.columns)
        return matrix.index_add(view.axis, state.indices, z).reshape(g.shape)

    def low_rank_update(self, state: Any, z: Tensor, shape: tuple[int, ...]) -> LowRankUpdate:
        view = self.view(shape)
        if len(view.shape) > 2:  # a tensor of more dimensions has no rows to scatter into
            return super().low_rank_update(state, z, shape)
        return LowRankUpdate(z, state.indices, view.shape, "left" if view.axis == 0 else "right")
