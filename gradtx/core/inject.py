"""Hyperparameters that live in the state: numbers to be set, and schedules with a memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import tree
from .checks import check_tensors
from .errors import described
from .hyper import Overrides
from .names import unknown_override
from .protocol import Wrapper, override_names
from .state import advance, new_count, new_scalar
from .tree import PyTree


class StatefulSchedule(ABC):
    """A schedule that depends on more than the number of steps, for ``gx.inject_hyperparams``.

    ``update`` and the call get the extra arguments of the transform's ``update``, such as
    ``value``. The state is a tree of tensors.

    >>> import torch, gradtx as gx
    >>> class FollowLoss(gx.StatefulSchedule):
    ...     def init(self): return torch.tensor(1.0)
    ...     def update(self, state, *, value, **extra): return torch.minimum(state, value)
    ...     def __call__(self, state, **extra): return state
    >>> tx, w = gx.inject_hyperparams(gx.sgd(), {"lr": FollowLoss()}), torch.ones(1)
    >>> state = tx.init(w)
    >>> for value in (0.25, 0.5):
    ...     updates, state = tx.update(w, state, w, value=torch.tensor(value))
    >>> updates
    tensor([-0.2500])
    """

    @abstractmethod
    def init(self) -> PyTree:
        """The state at the start."""

    @abstractmethod
    def update(self, state: PyTree, **extra: Any) -> PyTree:
        """The state after a step."""

    @abstractmethod
    def __call__(self, state: PyTree, **extra: Any) -> float | Tensor:
        """The value for a step, from the state before it."""


class InjectState(NamedTuple):
    """State of ``inject_hyperparams``.

    Attributes:
        step: int32, updates done.
        hyperparams: name -> 0-d tensor, what the last update used. Those that are numbers may be
            replaced, by ``gx.tree.set`` or in the dict.
        schedule_states: name -> state of a stateful schedule.
        inner_state: state of the transform.
    """

    step: Tensor
    hyperparams: dict[str, Tensor]
    schedule_states: dict[str, PyTree]
    inner_state: PyTree


@dataclass(frozen=True)
class inject_hyperparams(Wrapper):
    """Keep hyperparameters in the state: numbers that may be set there, and schedules with a state.

    They stand for the transform's own values, for ``update(..., hyper={...})`` and for the options
    of a torch optimizer. Where nothing is to live in the state, numbers and schedules are given to
    the transform itself.

    Args:
        transform: the inner transform.
        hyperparams: name of a dynamic hyperparameter, alone or after members (``"trace.decay"``),
            -> a number or 0-d tensor, a schedule ``count -> value``, or a ``StatefulSchedule``.

    Raises:
        ValueError: a name that no member has (says which was meant).
        TypeError: a value that is none of these.

    >>> import torch, gradtx as gx
    >>> tx, w = gx.inject_hyperparams(gx.sgd(), {"lr": 0.5}), torch.ones(1)
    >>> state = tx.init(w)
    >>> state = state._replace(hyperparams={"lr": torch.tensor(0.25)})
    >>> tx.update(w, state, w)[0]
    tensor([-0.2500])
    """

    hyperparams: Mapping[str, float | Tensor | Callable[[Tensor], Any] | StatefulSchedule]

    def __post_init__(self) -> None:
        known = override_names(self.transform)
        for name, value in self.hyperparams.items():
            if known and name not in known:  # what executors put in place of members has no names
                raise unknown_override(self.name, name, known)
            number = isinstance(value, (int, float, Tensor)) and not isinstance(value, bool)
            if not number and not callable(value):
                raise TypeError(
                    f"{self.name}: {name} must be a number, a 0-d tensor or a schedule, "
                    f"got {described(value)}"
                )

    def __hash__(self) -> int:
        items = ((k, id(v) if isinstance(v, Tensor) else v) for k, v in self.hyperparams.items())
        return hash((self.transform, tuple(items)))

    def init(self, params: PyTree) -> InjectState:
        check_tensors(self.name, params, what="parameter")
        there = tree.leaves(params)
        step = new_count(there)
        states = {
            k: s.init() for k, s in self.hyperparams.items() if isinstance(s, StatefulSchedule)
        }
        one = new_scalar(there, 1.0)
        values = {}
        for name, value in self.hyperparams.items():
            if isinstance(value, StatefulSchedule):
                values[name] = _like(value(states[name]), one).clone()
            elif callable(value) and not isinstance(value, Tensor):
                values[name] = _like(value(step), one)
            else:
                values[name] = _like(value, one).clone()
        return InjectState(step, values, states, self.transform.init(params))

    def update(
        self, updates: PyTree, state: InjectState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, InjectState]:
        values, states = {}, {}
        given = {k: v for k, v in extra.items() if k != "hyper"}
        for name, value in self.hyperparams.items():
            kept = state.hyperparams[name]
            if isinstance(value, StatefulSchedule):
                before = state.schedule_states[name]
                kept = _like(value(before, **given), kept).clone()
                after = value.update(before, **given)
                states[name] = tree.map(_like, after, before)
            elif callable(value) and not isinstance(value, Tensor):
                kept = _like(value(state.step), kept)
            values[name] = kept
        hyper = _overridden(values, extra.get("hyper") or {})
        new, inner = self.update_transform(
            updates, state.inner_state, params, {**extra, "hyper": hyper}
        )
        return new, InjectState(advance(state.step), values, states, inner)


def _overridden(kept: Mapping[str, Any], given: Mapping[str, Any]) -> Overrides:
    """The overrides that the transform gets: what is kept wins, whatever it is called there."""
    others = {k: v for k, v in given.items() if not any(f".{k}".endswith(f".{n}") for n in kept)}
    return Overrides({**others, **kept})


def _like(value: Any, old: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=old.dtype, device=old.device)
