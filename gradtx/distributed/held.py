"""Updates that wait until workers meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import tree
from ..core.apply import apply_updates
from ..core.errors import described
from ..core.hyper import Values
from ..core.leaf_states import map_leaf_states
from ..core.leaves import LeafInfo
from ..core.protocol import GradientTransformation
from ..core.state import state_zeros
from ..core.transform import LeafTransform
from ..core.tree import PyTree
from .feedback import Feedback
from .local_steps import Meeting, Sync, check_period
from .outer import averaged, residuals
from .rounds import Rounds


class HoldState(NamedTuple):
    """Attributes: ``held``, the sum of updates since workers have met."""

    held: Tensor


@dataclass(frozen=True)
class hold_updates(LeafTransform):
    """Keep updates until workers meet, and leave parameters alone: ``held <- held + u``, zero.

    ``exchange_held`` takes what is there.

    >>> import torch, gradtx as gx
    >>> tx = gx.distributed.hold_updates()
    >>> tx.update({"w": torch.ones(1)}, tx.init({"w": torch.ones(1)}))
    ({'w': tensor([0.])}, {'w': HoldState(held=tensor([1.]))})
    """

    def init_leaf(self, p: Tensor, info: LeafInfo) -> HoldState:
        return HoldState(state_zeros(p))

    def update_leaf(
        self, u: Tensor, s: HoldState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, HoldState]:
        return torch.zeros_like(u), HoldState(s.held + u)


@dataclass(frozen=True)
class exchange_held(Sync):
    """Meet over the updates that ``hold_updates`` has kept: a transform makes a step of their mean.

    p <- p + transform(mean of what is kept of held), the same on every worker.

    Args:
        transform: of the mean, learning rate included.
        every: steps between meetings, >= 1.
        feedback: compression with memory, see ``Feedback``; None sends everything.

    Raises:
        ValueError: a period below 1; from ``sync``, a chain without ``hold_updates``.
        TypeError: no transform.

    Source: arXiv 2411.19870.

    >>> import torch, gradtx as gx
    >>> gd = gx.distributed
    >>> method = gd.LocalSteps(gd.hold_updates(), (gd.exchange_held(gx.scale(-1.0)),))
    >>> both = gd.Simulation(method, {"w": torch.zeros(1)}, workers=2)
    >>> both.step([{"w": torch.ones(1)}, {"w": 3 * torch.ones(1)}])
    >>> both.params
    [{'w': tensor([-2.])}, {'w': tensor([-2.])}]
    """

    transform: GradientTransformation
    every: int = 1
    feedback: Feedback | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.transform, GradientTransformation):
            raise TypeError(
                "exchange_held: transform must be a GradientTransformation, "
                f"got {described(self.transform)}"
            )
        check_period("exchange_held", "every", self.every)

    def init(self, params: PyTree) -> PyTree:
        feedback = self.feedback or Feedback()
        return {"residuals": residuals(feedback, params), "outer": self.transform.init(params)}

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def rounds(self, now: Meeting, own: PyTree, step: int) -> Rounds:
        leaves, spec = tree.flatten(now.params)
        held: list[Any] = [None] * len(leaves)

        def take(i: int, state: Any) -> Any:
            if not isinstance(state, HoldState):
                return state
            held[i] = state.held
            return HoldState(torch.zeros_like(state.held))

        local = map_leaf_states(take, now.local, spec)
        if all(h is None for h in held) and tree.leaves(now.params):
            raise ValueError("exchange_held: nothing is held; put hold_updates into the chain")
        feedback = self.feedback or Feedback()
        mean, kept = yield from averaged(feedback, spec.unflatten(held), own["residuals"])
        updates, state = self.transform.update(mean, own["outer"], now.params)
        params = apply_updates(now.params, updates)
        return now._replace(params=params, local=local), {"residuals": kept, "outer": state}

    def same(self, now: Meeting, own: PyTree) -> PyTree:
        return now.params
