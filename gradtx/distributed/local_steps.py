"""Optimizers whose workers step alone and meet from time to time.

The steps of a worker are an ordinary transform. What happens when workers meet is a list of parts,
each with a period of its own; none holds a collective, they ask a reducer that is given to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.errors import described
from ..core.plain import Plain
from ..core.protocol import GradientTransformation
from ..core.tree import PyTree
from .rounds import Reducer, Rounds, drive


class LocalState(NamedTuple):
    """State of one worker.

    Attributes:
        step: int64 on the CPU, steps done; parts ask it whether they are due.
        local: state of the worker's transform.
        syncs: what the parts remember, in their order.
    """

    step: Tensor
    local: PyTree
    syncs: tuple[Any, ...]


class Meeting(NamedTuple):
    """What parts hand on to one another while workers meet.

    Attributes:
        params: the parameters.
        local: state of the worker's transform.
        drift: what all workers' parameters have moved by since they last met, their mean; None
            while they have not been averaged.
    """

    params: PyTree
    local: PyTree
    drift: PyTree = None


@dataclass(frozen=True)
class Sync(Plain):
    """Base class of what happens when workers meet.

    Subclass it as a frozen dataclass and define ``due`` and ``rounds``, and ``init`` if there is
    something to remember.
    """

    @property
    def name(self) -> str:
        """The name used in errors."""
        return type(self).__name__

    def init(self, params: PyTree) -> Any:
        """What it remembers at first."""
        return ()

    def due(self, step: int) -> bool:
        """Whether it happens after step number ``step``, from 1 on."""
        raise NotImplementedError

    def rounds(self, now: Meeting, own: Any, step: int) -> Rounds:
        """A generator for ``rounds.drive`` whose result is the new ``now`` and ``own``."""
        raise NotImplementedError

    def same(self, now: Meeting, own: Any) -> PyTree:
        """What is the same for all workers from one meeting to the next, bit for bit."""
        return ()


@dataclass(frozen=True)
class Start(Plain):
    """Base class of what happens before the first update."""

    def init(self, params: PyTree, local: PyTree) -> PyTree:
        """The local state, as far as no gradient is needed for it."""
        return local

    def rounds(self, grads: PyTree, params: PyTree, local: PyTree) -> Rounds:
        """A generator for ``rounds.drive`` whose result is the local state."""
        raise NotImplementedError


@dataclass(frozen=True)
class LocalSteps(Plain):
    """A worker's transform, and what happens when workers meet.

    All functions are pure. After every ``update`` a driver asks ``due`` and calls ``sync``, which
    needs the same step of every worker; ``begin`` comes before the first update. ``Worker`` and
    ``Simulation`` are such drivers.

    Args:
        transform: the steps of a worker, learning rate included.
        syncs: what happens when workers meet, in this order.
        start: what happens before the first update, or None.

    Raises:
        TypeError: a part of another type.

    >>> import torch, gradtx as gx
    >>> gd = gx.distributed
    >>> method = gd.LocalSteps(gx.sgd(0.5), (gd.outer(every=2),))
    >>> params, state = {"w": torch.ones(1)}, method.init({"w": torch.ones(1)})
    >>> for _ in range(2):
    ...     updates, state = method.update({"w": torch.ones(1)}, state, params)
    ...     params = gx.apply_updates(params, updates)
    >>> method.due(state.step), method.sync(params, state, gd.one_worker)[0]
    (True, {'w': tensor([0.])})
    """

    transform: GradientTransformation
    syncs: tuple[Sync, ...]
    start: Start | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.transform, GradientTransformation):
            raise TypeError(
                "LocalSteps: transform must be a GradientTransformation, "
                f"got {described(self.transform)}"
            )
        for sync in self.syncs:
            if not isinstance(sync, Sync):
                raise TypeError(f"LocalSteps: syncs must be Sync parts, got {described(sync)}")

    def init(self, params: PyTree) -> LocalState:
        """The state of a worker that starts with these parameters."""
        local = self.transform.init(params)
        if self.start is not None:
            local = self.start.init(params, local)
        step = torch.zeros((), dtype=torch.int64, device="cpu")
        return LocalState(step, local, tuple(sync.init(params) for sync in self.syncs))

    def begin_rounds(self, grads: PyTree, params: PyTree, state: LocalState) -> Rounds:
        """``begin`` as a generator for ``rounds.drive``."""
        if self.start is None:
            return state
        local = yield from self.start.rounds(grads, params, state.local)
        return state._replace(local=local)

    def begin(
        self, grads: PyTree, params: PyTree, state: LocalState, reduce: Reducer
    ) -> LocalState:
        """The state with what the first gradients of all workers decide.

        Args:
            grads: this worker's first gradients.
            params: its parameters.
            state: from ``init``.
            reduce: answers over all workers, see ``Reducer``.
        """
        new: LocalState = drive(self.begin_rounds(grads, params, state), reduce)
        return new

    def update(
        self, grads: PyTree, state: LocalState, params: PyTree, **extra: Any
    ) -> tuple[PyTree, LocalState]:
        """One step of this worker, as the ``update`` of its transform."""
        updates, local = self.transform.update(grads, state.local, params, **extra)
        return updates, self.stepped(state, local)

    def stepped(self, state: LocalState, local: PyTree) -> LocalState:
        """The state after a step that has led to this local state."""
        return LocalState(state.step + 1, local, state.syncs)

    def due(self, step: int | Tensor) -> bool:
        """Whether workers meet after step number ``step``."""
        return any(sync.due(int(step)) for sync in self.syncs)

    def same(self, params: PyTree, state: LocalState) -> PyTree:
        """What is the same for all workers, bit for bit, after every meeting."""
        now = Meeting(params, state.local)
        return [sync.same(now, own) for sync, own in zip(self.syncs, state.syncs, strict=True)]

    def rounds(self, params: PyTree, state: LocalState) -> Rounds:
        """``sync`` as a generator for ``rounds.drive``."""
        now, step, syncs = Meeting(params, state.local), int(state.step), list(state.syncs)
        for i, sync in enumerate(self.syncs):
            if sync.due(step):
                now, syncs[i] = yield from sync.rounds(now, syncs[i], step)
        return now.params, LocalState(state.step, now.local, tuple(syncs))

    def sync(self, params: PyTree, state: LocalState, reduce: Reducer) -> tuple[PyTree, LocalState]:
        """Meet the other workers, with whatever is due after ``state.step``.

        Args:
            params: this worker's parameters.
            state: its state.
            reduce: answers over all workers, see ``Reducer``.

        Returns:
            New parameters and state; nothing is changed in place.
        """
        new: tuple[PyTree, LocalState] = drive(self.rounds(params, state), reduce)
        return new


def check_period(who: str, name: str, value: Any) -> None:
    """Raise unless ``value`` is a number of steps."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{who}: {name} must be an integer >= 1, got {value!r}")
