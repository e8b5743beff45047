"""Leaves that go through a chain in different parts, such as those of different labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from .batch import Batch
from .plan import LaunchPlan
from .prepared import Prepared, write_all


class Separate:
    """Several ``LaunchPlan`` that are one step.

    All of them compute what follows from the state that all leaves share; the last one keeps it,
    the others work on copies.

    Args:
        batch: the leaves.
        plans: which of them each has, and the tables.
    """

    def __init__(self, batch: Batch, plans: list[tuple[list[int], LaunchPlan]]) -> None:
        self._where = [where for where, _ in plans]
        self.pieces = [plan for _, plan in plans]
        self._batch = replace(batch, grads=[], extra={})
        self._parts = [plan.batch for plan in self.pieces]

    @staticmethod
    def cut(batch: Batch, leaves: list[list[int]], alone: list[bool]) -> list[Batch]:
        """A batch per list of leaves; all but the last have copies of what is shared.

        Those that are ``alone`` do not know of the tree's other leaves.
        """
        parts = [batch.some(where) for where in leaves]
        parts = [part.alone() if yes else part for part, yes in zip(parts, alone, strict=True)]
        return [
            *(replace(part, shared=[x.clone() for x in batch.shared]) for part in parts[:-1]),
            parts[-1],
        ]

    def fits(self, batch: Batch) -> bool:
        """Whether these tables serve a batch: same tensors at the same addresses."""
        if len(batch.params) != len(self._batch.params):
            return False
        return all(map(LaunchPlan.fits, self.pieces, self._split(batch)))

    @property
    def fails_late(self) -> bool:
        """Whether what ``prepare`` gives may still raise."""
        return any(plan.fails_late for plan in self.pieces)

    def prepare(self, batch: Batch) -> Callable[[], None]:
        """Compute everything that may fail; the result writes."""
        for part in self._parts[:-1]:
            for own, x in zip(part.shared, batch.shared, strict=True):
                own.copy_(x)
        split = zip(self.pieces, self._split(batch), strict=True)
        steps = [Prepared(plan.prepare(part), plan.fails_late) for plan, part in split]
        return partial(write_all, steps)

    def _split(self, batch: Batch) -> list[Batch]:
        """The batch in pieces, which keep their lists where it does."""
        known = self._batch
        same = batch.params is known.params and batch.states is known.states
        out = []
        for where, old in zip(self._where, self._parts, strict=True):
            new = replace(batch.some(where), spec=old.spec, positions=old.positions)
            if same:
                new = replace(new, params=old.params, states=old.states)
            out.append(new if where is self._where[-1] else replace(new, shared=old.shared))
        return out
