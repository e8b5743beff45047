"""What transforms in a subspace keep of a leaf, and how they move on to the next update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.leaves import LeafInfo
from ..core.state import new_count
from .projector import Projector
from .refresh import Refresh, when

Where = Callable[[LeafInfo], bool]


class SubspaceLeaf(NamedTuple):
    """The subspace of one leaf.

    Attributes:
        step: int32, updates done for this leaf.
        phase: of the refresh policy, or ().
        projector: the projector's state.
    """

    step: Tensor
    phase: Tensor | tuple[()]
    projector: Any


class Whole(NamedTuple):
    """A leaf that is not projected; there is nothing to keep."""


class Turn(NamedTuple):
    """One update of a leaf's subspace.

    Attributes:
        new: the state after it.
        due: whether the subspace was chosen anew.
        moved: whether coordinates from before had their meaning changed.
    """

    new: SubspaceLeaf
    due: Tensor | bool
    moved: Tensor


def check_parts(who: str, projector: Any, refresh: Any) -> None:
    """Raise TypeError unless these are a projector and a policy."""
    for value, kind, what in (
        (projector, Projector, "projector must be one of gx.subspace"),
        (refresh, Refresh, "refresh must be a policy of gx.subspace"),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"{who}: {what}, got {type(value).__name__}")


def is_projected(projector: Projector, where: Where | None, info: LeafInfo) -> bool:
    """Whether a leaf is one that goes into the subspace."""
    return projector.takes(info.shape) and (where is None or bool(where(info)))


def init(
    projector: Projector, refresh: Refresh, where: Where | None, p: Tensor, info: LeafInfo
) -> SubspaceLeaf | Whole:
    """The state of a leaf."""
    if not is_projected(projector, where, info):
        return Whole()
    return SubspaceLeaf(
        new_count([p]), refresh.init(p, info.name), projector.init(p.detach(), info.name)
    )


def turn(projector: Projector, refresh: Refresh, s: SubspaceLeaf, g: Tensor) -> Turn:
    """Count the update, and choose the subspace anew where the policy says so."""
    step = s.step + 1
    due, first = refresh.due(step, s.phase), step == 1
    new = when(due, lambda: projector.refresh(s.projector, g, first), s.projector)
    moved = ~first & (due if isinstance(due, Tensor) else torch.full_like(first, due))
    return Turn(SubspaceLeaf(step, s.phase, new), due, moved)
