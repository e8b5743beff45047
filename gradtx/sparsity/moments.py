"""What an optimizer remembers, forgotten when masks change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..core import tree
from ..core.checks import can_read
from ..core.execution import Events, Execution
from ..core.hyper import static
from ..core.leaf_states import map_fields, map_leaf_states
from ..core.protocol import GradientTransformation, Wrapper
from ..core.roles import FIRST, roles
from ..core.state import advance, new_count
from ..core.tree import PyTree
from .phases import PhaseSchedule

Forgotten = Literal["first_moments", "all", "nothing"]


class ResetOnState(NamedTuple):
    """State of ``reset_on``.

    Attributes:
        step: int32, updates done.
        inner_state: of the inner transform.
    """

    step: Tensor
    inner_state: PyTree


@dataclass(frozen=True)
class reset_on(Wrapper):
    """Forget moments before the steps at which a schedule prunes or restores.

    A weight that comes back starts at zero, and so should the average of its gradients.

    Args:
        transform: any optimizer, or a part of one.
        schedule: when.
        event: "restore" or "prune".
        what: zero the "first_moments", or start "all" state anew, counters included.

    Raises:
        ValueError: another word; from ``update``, "all" without parameters.
        TypeError: no schedule.

    Source: arXiv 2106.12379, section on resetting momentum.

    >>> import torch, gradtx as gx
    >>> phases = gx.sparsity.phases(("sparse", 2), ("dense", 2))
    >>> tx, g = gx.sparsity.reset_on(gx.trace(0.5), phases), {"w": torch.ones(1)}
    >>> state, seen = tx.init(g), []
    >>> for _ in range(4):
    ...     updates, state = tx.update(g, state)
    ...     seen.append(updates["w"].item())
    >>> seen
    [1.0, 1.5, 1.0, 1.5]
    """

    execution: ClassVar[Execution] = Execution(
        leaves_independent=True,
        cannot_raise=True,
        events=Events(
            "step",
            lambda tx, count: tx.schedule.event(count) == tx.event,
            lambda tx, params, state: tx.begin(params, state),
            lambda tx: tx.without_events(),
        ),
    )

    schedule: PhaseSchedule = static(PhaseSchedule(()))
    event: Literal["prune", "restore"] = static("restore")
    what: Literal["first_moments", "all"] = static("first_moments")

    @property
    def name(self) -> str:
        return "reset_on"

    def init(self, params: PyTree) -> ResetOnState:
        return ResetOnState(new_count(tree.leaves(params)), self.transform.init(params))

    def update(
        self, updates: PyTree, state: ResetOnState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, ResetOnState]:
        if params is None and self.what == "all":
            raise ValueError("reset_on: needs the parameters; call update(updates, state, params)")
        state = self.begin(updates if params is None else params, state)
        out, inner = self.update_transform(updates, state.inner_state, params, extra)
        return out, ResetOnState(advance(state.step), inner)

    def begin(self, params: PyTree, state: ResetOnState) -> ResetOnState:
        """The state of the next step once its event, if there is one, has happened."""
        if not self.schedule.has_events:
            return state
        due = dict(zip(("prune", "restore"), self.schedule.due(state.step), strict=True))
        inner = forget(self.transform, state.inner_state, params, self.what, due[self.event])
        return state._replace(inner_state=inner)

    def without_events(self) -> reset_on:
        """The same, but for steps before which nothing happens."""
        return reset_on(self.transform, PhaseSchedule(()), self.event, self.what)


def reset_moments(state: PyTree, params: PyTree) -> PyTree:
    """A state whose first moments are zero; second moments, counters and masks stay.

    For events of one's own, between two steps: ``state = reset_moments(state, params)``.

    Args:
        state: of any transform.
        params: tree of tensors, as ``init`` got it.

    >>> import torch, gradtx as gx
    >>> tx, p = gx.trace(0.5), {"w": torch.ones(1)}
    >>> _, state = tx.update(p, tx.init(p))
    >>> gx.sparsity.reset_moments(state, p)
    {'w': TraceState(trace=tensor([0.]))}
    """
    _, spec = tree.flatten(params)
    return map_leaf_states(lambda i, s: _without_first_moments(s), state, spec)


def masked_moments(state: PyTree, masks: list[Any], spec: Any) -> PyTree:
    """A state with zeros in the first moments of masked weights, where there is one a weight.

    Args:
        state: of any transform.
        masks: bool, a leaf each; None for leaves without.
        spec: the structure of the parameters.
    """

    def of_leaf(i: int, s: Any) -> Any:
        mask = masks[i]

        def kept(name: str, role: str, x: Tensor) -> Tensor:
            fits = role == FIRST and mask is not None and x.shape == mask.shape
            return torch.where(mask, x, 0) if fits else x

        return map_fields(kept, s)

    return map_leaf_states(of_leaf, state, spec)


def forget(
    tx: GradientTransformation, state: PyTree, params: PyTree, what: Forgotten, due: Tensor
) -> PyTree:
    """A transform's state with moments forgotten where a 0-d condition holds."""
    if what == "nothing" or (can_read(due) and not bool(due)):
        return state
    new = tx.init(_present(params, state)) if what == "all" else reset_moments(state, params)
    return new if can_read(due) else tree.where(due, new, state)


def _present(params: PyTree, state: PyTree) -> PyTree:
    """The parameters of which a state keeps something; in a partition others belong to others."""
    leaves, spec = tree.flatten(params)
    there: set[int] = set()

    def look(i: int, s: Any) -> Any:
        if not isinstance(s, tuple) or s:
            there.add(i)
        return s

    map_leaf_states(look, state, spec)
    kept = [p if i in there else None for i, p in enumerate(leaves)]
    return spec.unflatten(kept) if there else params


def _without_first_moments(node: Any) -> Any:
    """A leaf's state with zeros where first moments were."""
    inside = tree.children(node)
    if isinstance(node, Tensor) or not inside:
        return node
    own = roles(node)
    return tree.rebuild(
        node,
        [
            tree.zeros_like(x) if own.get(key) == FIRST else _without_first_moments(x)
            for key, x in inside
        ],
    )
