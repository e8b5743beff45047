"""Workers in processes of their own, which do together what a method asks for, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch

from ..core.tree import PyTree
from .checksum import checksum
from .local_steps import LocalState, LocalSteps
from .resume import newcomer
from .roll_call import RollCall
from .rounds import Rounds, Wire, drive, one_worker


class Team:
    """The meetings of a loop of one's own, in a group of processes.

    A meeting happens for all or for none: everybody is called first, means are received beside
    the parameters, everybody tells a checksum of what must be the same everywhere, and only then
    there are new parameters. Whoever is missing is named after ``timeout``. Nothing is changed in
    place. ``Worker`` is that with a module.

    Args:
        group: process group; None is the default one.
        timeout: seconds to wait for the others, > 0.
        part: which part of every leaf this process has, where a worker is several processes that
            are not in ``group``; all processes are called then. None is all of it.

    Raises:
        ValueError: ``timeout`` is not positive.

    >>> import torch, gradtx as gx
    >>> method, team = gx.distributed.desloc(0.1, every=1), gx.distributed.Team()
    >>> params = {"w": torch.ones(2)}
    >>> params, state = team.join(method, params, method.init(params))
    >>> updates, state = method.update({"w": torch.ones(2)}, state, params)
    >>> params, state = team.sync(method, gx.apply_updates(params, updates), state)
    >>> int(state.step)
    1
    """

    _who: ClassVar[str] = "Team"
    _again: ClassVar[str] = "sync()"

    def __init__(self, group: Any = None, timeout: float = 600.0, part: str | None = None) -> None:
        self.group, self._part = group, part
        # A meeting of some parts alone would be half of one.
        everybody = group if part is None else None
        self._roll_call = RollCall(everybody, timeout, self._who, self._again)
        self._wire = Wire(group)

    @property
    def sent_bytes(self) -> int:
        """Bytes that this process has given to collectives for means so far."""
        return self._wire.sent_bytes

    @torch.no_grad()
    def join(
        self, method: LocalSteps, params: PyTree, state: LocalState
    ) -> tuple[PyTree, LocalState]:
        """Agree with the others on where training is, before the first step.

        Who has done no step takes parameters and state of rank 0, if that has done some, without
        what rank 0 has yet to send.

        Raises:
            RuntimeError: somebody has not come (names the ranks).
            ValueError: parameters differ at the start, or some workers are elsewhere in training
                than rank 0 and not at their beginning (names the ranks).
        """
        step, shared = int(state.step), method.same(params, state)
        word = checksum((params, shared) if step == 0 else shared)
        said = self._roll_call("start", f"{step} {self._part} {word}")
        words = [w.partition(" ") for w in said]
        steps = [int(s) for s, _, _ in words]
        late = [rank for rank, s in enumerate(steps) if s != steps[0]]
        first = _firsts([sums for _, _, sums in words])
        wrong = [rank for rank in late if steps[rank] or rank in first]
        if wrong:
            raise ValueError(
                f"{self._who}: ranks {wrong} have done {[steps[rank] for rank in wrong]} steps, "
                f"rank 0 has done {steps[0]}; load one checkpoint on all, or none on those that "
                "are new"
            )
        there = [None if rank in late else sums for rank, (_, _, sums) in enumerate(words)]
        if others := _others(there):
            raise ValueError(
                f"{self._who}: ranks {others} start with other parameters than rank 0; seed all "
                "alike, or load one checkpoint on all"
            )
        if late:
            theirs = self._wire.from_first((params, state))
            if self._roll_call.rank in late:
                return theirs[0], newcomer(theirs[1], method.init(params))
        return params, state

    @torch.no_grad()
    def begin(
        self, method: LocalSteps, grads: PyTree, params: PyTree, state: LocalState
    ) -> LocalState:
        """What the first gradients of all workers decide, before the first step; see ``sync``."""
        if int(state.step) or method.start is None:
            return state
        rounds = method.begin_rounds(grads, params, state)
        new: LocalState = self._together("first step", rounds, lambda state: state)
        return new

    @torch.no_grad()
    def sync(
        self, method: LocalSteps, params: PyTree, state: LocalState
    ) -> tuple[PyTree, LocalState]:
        """The meeting that is due after this step.

        Raises:
            RuntimeError: somebody missed it, or results differ (names the ranks); nothing has
                changed anywhere.
        """
        new: tuple[PyTree, LocalState] = self._together(
            f"meeting after step {int(state.step)}",
            method.rounds(params, state),
            lambda result: method.same(*result),
        )
        return new

    def _together(self, what: str, rounds: Rounds, same: Callable[[Any], Any]) -> Any:
        """The result of rounds, once everybody has the same."""
        self._roll_call(what)
        try:
            result = drive(rounds, self._wire if self._roll_call.world > 1 else one_worker)
            word = f"{self._part} {checksum(same(result))}"
        except RuntimeError as error:
            self._roll_call.give_up(f"end of the {what}")
            raise RuntimeError(
                f"{self._who}: the {what} broke off: {error}. Nothing has been averaged; "
                "make a new process group of those that are left"
            ) from error
        words = self._roll_call(f"end of the {what}", word)
        if others := _others(words):
            self._roll_call.try_again()
            raise RuntimeError(
                f"{self._who}: ranks {others} have other numbers than rank 0 after the {what}; "
                "nothing has been changed. Load one checkpoint on all"
            )
        return result


def _firsts(words: Sequence[str | None]) -> dict[int, str]:
    """By rank the words of those that are the first with their part."""
    found: dict[str, int] = {}
    for rank, word in enumerate(words):
        if word is not None:
            found.setdefault(word.split(" ")[0], rank)
    return {rank: str(words[rank]) for rank in found.values()}


def _others(words: Sequence[str | None]) -> list[int]:
    """The ranks that say something else than the first with their part; None says nothing."""
    good = set(_firsts(words).values())
    return [rank for rank, word in enumerate(words) if word is not None and word not in good]
