"""What transforms in a subspace keep of a leaf, and how they move on to the next update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ..core import tree
from ..core.leaves import LeafInfo
from ..core.predicates import is_chosen
from ..core.state import advance, new_count
from .projector import Projector
from .refresh import Refresh, can_read

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
    """

    new: SubspaceLeaf
    due: Tensor | bool

    @property
    def moved(self) -> Tensor:
        """Whether coordinates from before had their meaning changed."""
        later = self.new.step != 1
        return later & self.due


def is_projected(projector: Projector, where: Where | None, info: LeafInfo) -> bool:
    """Whether a leaf is one that goes into the subspace."""
    return projector.takes(info.shape) and (where is None or is_chosen("where", where, info))


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
    return turns(projector, refresh, [s], [g])[0]


def turns_of(
    projector: Projector, refresh: Refresh, states: list[Any], gs: list[Any]
) -> list[Turn | None]:
    """``turns`` of leaves with a ``subspace`` in their state and an update, None for the others."""
    olds: list[Any] = [getattr(s, "subspace", None) for s in states]
    there = [i for i, g in enumerate(gs) if g is not None and isinstance(olds[i], SubspaceLeaf)]
    done = turns(projector, refresh, [olds[i] for i in there], [gs[i] for i in there])
    out: list[Turn | None] = [None] * len(gs)
    for i, each in zip(there, done, strict=True):
        out[i] = each
    return out


def turns(
    projector: Projector, refresh: Refresh, states: list[SubspaceLeaf], gs: list[Tensor]
) -> list[Turn]:
    """``turn`` for several leaves at once."""
    steps = [advance(s.step, refresh.period) for s in states]
    dues = refresh.due_all(steps, [s.phase for s in states])
    # Where it cannot be read whether it is due, the new subspace is made and chosen from.
    unread = [isinstance(due, Tensor) and not can_read(due) for due in dues]
    wanted = [i for i, due in enumerate(dues) if unread[i] or due]
    fresh = projector.refresh_all(
        [states[i].projector for i in wanted],
        [gs[i] for i in wanted],
        [steps[i] == 1 for i in wanted],
    )
    new = [s.projector for s in states]
    for i, made in zip(wanted, fresh, strict=True):
        due = dues[i]
        new[i] = tree.where(due, made, new[i]) if isinstance(due, Tensor) and unread[i] else made
    return [
        Turn(SubspaceLeaf(t, s.phase, now), due)
        for s, t, due, now in zip(states, steps, dues, new, strict=True)
    ]
