"""Where a worker begins that has not done all steps itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.tree import PyTree
from ..transforms.error_feedback import ErrorFeedbackLeaf
from .feedback import Residual
from .local_steps import LocalState, LocalSteps
from .outer import outer
from .remembered import entry

_ENTRY = re.compile(r"rank_(\d+)_of_(\d+)")
_REMEMBERS = (ErrorFeedbackLeaf, Residual)


def newcomer(theirs: LocalState, fresh: LocalState) -> LocalState:
    """The state of another worker without what that one has dropped."""
    new: LocalState = _with_errors([theirs], fresh, drop=True)
    return new


def loaded(
    state: Mapping[str, Any],
    residuals: str | None,
    place: tuple[int, int],
    params: PyTree,
    method: LocalSteps,
) -> tuple[PyTree, LocalState]:
    """Parameters and state of a worker from what some have saved; see ``Worker``.

    Args:
        state: entries by name.
        residuals: None, "sum" or "drop".
        place: rank and number of workers.
        params: the worker's own, for their structure.
        method: what workers do.
    """
    if residuals not in (None, "sum", "drop"):
        raise ValueError(f"Worker: residuals must be None, 'sum' or 'drop', got {residuals!r}")
    fresh = method.init(params)
    like = {"params": params, "state": fresh}
    own = state.get(entry(*place))
    if own is not None:
        filled = tree.from_dict(like, own)
        return filled["params"], filled["state"]
    found = {m: state[m[0]] for m in map(_ENTRY.fullmatch, state) if m}
    worlds = {int(m[2]) for m in found}
    if residuals is None or len(worlds) != 1:
        raise ValueError(
            f"Worker: the state is that of {sorted(state)}, this worker is {entry(*place)}. To "
            "go on with another number of workers give the entries that they saved after one "
            "meeting and say what becomes of what they have dropped: residuals='sum' or 'drop'"
        )
    filled = [tree.from_dict(like, held) for held in found.values()]
    states: list[LocalState] = [one["state"] for one in filled]
    steps = sorted({int(one.step) for one in states})
    meets = [sync for sync in method.syncs if isinstance(sync, outer)]
    if len(steps) != 1 or not all(sync.due(steps[0]) for sync in meets):
        raise ValueError(
            f"Worker: the state was saved after steps {steps}, when parameters of workers "
            "differed; another number of workers can go on only from a meeting, so save after "
            "a step at which parameters are averaged"
        )
    (world,) = worlds
    if residuals == "sum" and len(states) != world:
        raise ValueError(
            f"Worker: residuals='sum' needs the entries of all {world} workers, got {len(states)}; "
            "residuals='drop' does without"
        )
    new: LocalState = _with_errors(states, fresh, drop=residuals == "drop")
    return filled[0]["params"], new


def _with_errors(states: Sequence[Any], fresh: Any, drop: bool) -> Any:
    """The first of some states, with fresh residuals or with the mean of all."""
    first = states[0]
    if isinstance(first, _REMEMBERS):
        error = fresh.error if drop else _mean([s.error for s in states])
        return first._replace(error=error)
    inside = tree.children(first)
    if not inside:
        return first
    columns = zip(*([c for _, c in tree.children(s) or ()] for s in states), strict=True)
    others = [child for _, child in tree.children(fresh) or ()]
    return tree.rebuild(
        first, [_with_errors(c, f, drop) for c, f in zip(columns, others, strict=True)]
    )


def _mean(errors: list[Any]) -> Any:
    """What all have dropped on average: everybody takes it, so that the sum of means is kept."""
    if not all(isinstance(e, Tensor) for e in errors):
        raise ValueError(
            f"Worker: residuals='sum' cannot add residuals kept as {type(errors[0]).__name__}; "
            "use residuals='drop', or keep them in a dtype"
        )
    return torch.stack([e.double() for e in errors]).mean(0).to(errors[0].dtype)
