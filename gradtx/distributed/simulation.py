"""Several workers in one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ..core import tree
from ..core.apply import apply_updates
from ..core.errors import described
from ..core.tree import PyTree
from .local_steps import LocalState, LocalSteps
from .rounds import Gather, Mean, Rounds


class Lockstep:
    """Answers the requests of all workers at once, in place of collectives.

    Means are taken in float64, so that they do not depend on the order of the workers.

    Attributes:
        sent_bytes: what one worker would have given to collectives so far.
    """

    def __init__(self) -> None:
        self.sent_bytes = 0

    def drive(self, workers: Sequence[Rounds]) -> list[Any]:
        """Advance the generators of all workers to their ends and return their results.

        Raises:
            ValueError: workers ask for different things.
        """
        answers: list[Any] = [None] * len(workers)
        while True:
            asked, results = [], []
            for rounds, answer in zip(workers, answers, strict=True):
                try:
                    asked.append(rounds.send(answer))
                except StopIteration as end:
                    results.append(end.value)
            if not asked:
                return results
            if results or len({len(requests) for requests in asked}) != 1:
                raise ValueError("Lockstep: workers ask for different things")
            columns = [self._answer(column) for column in zip(*asked, strict=True)]
            answers = [list(row) for row in zip(*columns, strict=True)]

    def _answer(self, column: tuple[Any, ...]) -> list[Any]:
        """What every worker is told of one request."""
        first = column[0]
        if isinstance(first, Mean):
            if len({tuple(request.value.shape) for request in column}) != 1:
                raise ValueError("Lockstep: workers hold leaves of different shapes")
            self.sent_bytes += first.value.nbytes
            total = torch.stack([r.value.to(torch.float64) for r in column]).mean(0)
            return [total.to(r.value.dtype) for r in column]
        assert isinstance(first, Gather)
        self.sent_bytes += sum(x.nbytes for x in first.value)
        return [[r.value for r in column] for _ in column]


class _One(NamedTuple):
    """One worker."""

    params: PyTree
    state: LocalState


class Simulation:
    """Workers in one process, each with parameters and state of its own.

    What ``Worker`` does with process groups, for experiments and tests.

    Args:
        method: what workers do.
        params: tree of tensors with which all start.
        workers: how many, >= 1.
        run: a step in place such as ``gx.fuse(method.transform)``; None updates purely.

    Raises:
        TypeError: no ``LocalSteps``.
        ValueError: no worker.

    >>> import torch, gradtx as gx
    >>> method = gx.distributed.LocalSteps(gx.sgd(1.0), (gx.distributed.outer(every=1),))
    >>> both = gx.distributed.Simulation(method, {"w": torch.zeros(1)}, workers=2)
    >>> both.step([{"w": torch.ones(1)}, {"w": 3 * torch.ones(1)}])
    >>> both.params, both.sent_bytes
    ([{'w': tensor([-2.])}, {'w': tensor([-2.])}], 4)
    """

    def __init__(
        self, method: LocalSteps, params: PyTree, workers: int = 2, run: Any = None
    ) -> None:
        if not isinstance(method, LocalSteps):
            raise TypeError(f"Simulation: method must be LocalSteps, got {described(method)}")
        if workers < 1:
            raise ValueError(f"Simulation: workers must be >= 1, got {workers}")
        self.method, self._run = method, run
        own = [tree.map(lambda p: p.detach().clone(), params) for _ in range(workers)]
        self._workers = [_One(p, method.init(p)) for p in own]
        self._lockstep = Lockstep()

    @property
    def params(self) -> list[PyTree]:
        """The parameters of every worker."""
        return [one.params for one in self._workers]

    @property
    def states(self) -> list[LocalState]:
        """The state of every worker."""
        return [one.state for one in self._workers]

    @property
    def sent_bytes(self) -> int:
        """Bytes that one worker has given to collectives so far."""
        return self._lockstep.sent_bytes

    def step(self, grads: Sequence[PyTree], sync: bool = True, **extra: Any) -> None:
        """One step of every worker, and the meeting that is due after it.

        Args:
            grads: the gradients of every worker.
            sync: False leaves the meeting out; ``meet`` makes up for it.
            extra: further arguments of ``update``, such as ``hyper``.

        Raises:
            ValueError: not one tree of gradients for every worker. Nothing has changed.
        """
        method, count = self.method, len(self._workers)
        if not isinstance(grads, Sequence) or len(grads) != count:
            got = f"{len(grads)}" if isinstance(grads, Sequence) else described(grads)
            raise ValueError(
                f"Simulation: grads must be a list of {count}, one for every worker, got {got}"
            )
        if int(self._workers[0].state.step) == 0:
            begun = self._lockstep.drive(
                [
                    method.begin_rounds(g, one.params, one.state)
                    for g, one in zip(grads, self._workers, strict=True)
                ]
            )
            self._workers = [
                _One(one.params, s) for one, s in zip(self._workers, begun, strict=True)
            ]
        self._workers = [
            self._stepped(one, g, extra) for one, g in zip(self._workers, grads, strict=True)
        ]
        if sync:
            self.meet()

    def _stepped(self, one: _One, grads: PyTree, extra: dict[str, Any]) -> _One:
        if self._run is None:
            updates, state = self.method.update(grads, one.state, one.params, **extra)
            return _One(apply_updates(one.params, updates), state)
        params, local = self._run(one.params, grads, one.state.local, **extra)
        return _One(params, self.method.stepped(one.state, local))

    def meet(self) -> None:
        """The meeting that is due after this step, if any."""
        if self.method.due(self._workers[0].state.step):
            done = self._lockstep.drive(
                [self.method.rounds(one.params, one.state) for one in self._workers]
            )
            self._workers = [_One(*each) for each in done]
