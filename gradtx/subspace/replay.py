"""Recorded subspaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.state import advance
from ..core.tree import accumulator_dtype
from .dense import DenseProjector
from .view import View


class Replayed(NamedTuple):
    """Recorded bases.

    Attributes:
        recorded: (number of bases, size, rank).
        refreshes: int64, how many were asked for.
        basis: (size, rank), the last one.
    """

    recorded: Tensor
    refreshes: Tensor
    basis: Tensor


@dataclass(frozen=True, repr=False, eq=False)
class replay(DenseProjector):
    """Bases recorded elsewhere, one a refresh; the last one stays.

    To compare trajectories with those of an implementation that chose its subspaces itself.

    Args:
        rank: number of vectors.
        side: see ``svd``.
        clip_rank: take the largest possible rank where ``rank`` is larger.
        matricize: take leaves with more than two dimensions as first against all others.
        bases: leaf name -> bases (size, rank) in the order of the refreshes.

    Raises:
        ValueError: at ``init``, a leaf without bases or with bases of another shape.

    >>> import torch, gradtx as gx
    >>> projector = gx.subspace.replay(1, bases={"w": [torch.tensor([[1.0], [0.0]])]})
    >>> g = torch.tensor([[3.0, 4.0]]).expand(5, 2)
    >>> state = projector.refresh(projector.init(g, "w"), g)
    >>> projector.back(state, projector.project(state, g), g.shape)[0]
    tensor([3., 0.])
    """

    bases: Mapping[str, Any] | None = None

    def init(self, p: Tensor, name: str = "") -> Replayed:
        view = self.view(p.shape, name)
        if p.is_meta:  # only the structure counts, and the leaf may have no name
            return self._state([p.new_zeros(view.size, view.rank)], p)
        found = list((self.bases or {}).get(name.removesuffix("/left").removesuffix("/right"), ()))
        if not found or any(tuple(q.shape) != (view.size, view.rank) for q in found):
            shapes = [tuple(q.shape) for q in found]
            raise ValueError(
                f"replay: leaf {name!r} needs bases of shape {(view.size, view.rank)}, got {shapes}"
            )
        return self._state(found, p)

    def _state(self, bases: list[Tensor], p: Tensor) -> Replayed:
        recorded = torch.stack(bases).to(p.device, accumulator_dtype(p.dtype))
        count = torch.zeros((), dtype=torch.int64, device=p.device)
        return Replayed(recorded, count, torch.zeros_like(recorded[0]))

    def fresh(self, state: Any, x: Tensor, view: View, first: Tensor | bool) -> Replayed:
        index = torch.clamp(state.refreshes, max=state.recorded.shape[0] - 1)
        new = state.recorded.index_select(0, index.reshape(1))[0]
        return Replayed(state.recorded, advance(state.refreshes), new)
