"""Members to whose state something happens before some steps, by their hint ``events``.

What is traced is the chain without events. Before each step their counters are asked whether one is
due; if so, the states after it are made first, as torch operations, and the step runs on those.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...core.chain import Chain
from ...core.execution import Events
from ...core.protocol import GradientTransformation
from ...core.select import partition
from ...core.tree import PyTree, children
from ..frontend.layout import shared_in
from ..frontend.sequence import OfLabel, Path, Sequence, paths
from ..ir.errors import NotThisStepError
from .batch import Batch
from .member import run_member
from .segments import Members, Segment

Pairs = list[tuple[Tensor, Tensor]]


def between_events(tx: GradientTransformation) -> GradientTransformation:
    """A transform as it is at steps before which nothing happens."""
    return _with_members(tx, lambda member, hint: hint.between(member))


def _with_members(
    tx: GradientTransformation,
    fn: Callable[[GradientTransformation, Events], GradientTransformation],
) -> GradientTransformation:
    """A transform with something else in the place of every member that has events."""
    if isinstance(tx, Chain):
        new = tuple((name, _with_members(member, fn)) for name, member in tx)
        changed = any(a is not b for (_, a), (_, b) in zip(new, tx, strict=True))
        return Chain(new) if changed else tx
    if isinstance(tx, partition):
        each = {label: _with_members(member, fn) for label, member in tx.transforms.items()}
        changed = any(each[label] is not member for label, member in tx.transforms.items())
        return dataclasses.replace(tx, transforms=each) if changed else tx
    hint = tx.execution.events
    return tx if hint is None else fn(tx, hint)


class EventMembers:
    """The members of a transform that have events.

    Args:
        tx: a chain, or anything else as its one member.
    """

    def __init__(self, tx: GradientTransformation) -> None:
        begin = _with_members(tx, _Begin)
        self._members: list[tuple[Path, _Begin, GradientTransformation]] = []
        for path in paths(begin):
            found = Sequence.of(begin, [path])
            ((_, member),) = found.members
            bare = member.transform if isinstance(member, OfLabel) else member
            if isinstance(bare, _Begin):
                self._members.append((path, bare, found))
        # Counters as they were after the last step, and what they said: an accelerator need not
        # be waited for to know what they say now.
        self._known: dict[Path, tuple[Tensor, int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._members)

    def another(self) -> EventMembers:
        """For other leaves."""
        new = EventMembers(Chain(()))
        new._members = self._members
        return new

    def changes(self, members: Members, batch: Batch) -> Pairs:
        """Old and new state tensors of what happens before a step.

        Raises:
            NotThisStepError: it concerns leaves without a gradient, too.
        """
        pairs: Pairs = []
        for path, own, begin in self._members:
            at = members.paths.index(path)
            segment = Segment(at, at + 1, False)
            counter = self._counter(members, segment, own.hint, batch)
            if not own.hint.due(own.member, self._count(path, counter)):
                continue
            if len(batch.positions) < batch.spec.num_leaves:
                raise NotThisStepError(".".join(path), "what happens concerns all leaves")
            _, found = run_member(members, segment, begin, batch, batch.grads, None)
            pairs += [(old, new) for old, new in found if old is not new]
        return pairs

    def advanced(self, members: Members, batch: Batch) -> None:
        """Note that a step has been done."""
        for path, own, _ in self._members:
            at = members.paths.index(path)
            counter = self._counter(members, Segment(at, at + 1, False), own.hint, batch)
            if path in self._known:
                count = self._known[path][2] + 1
                self._known[path] = counter, counter._version, count

    def _count(self, path: Path, counter: Tensor) -> int:
        if counter.device.type == "cpu":
            return int(counter)
        known = self._known.get(path)
        if known is None or known[0] is not counter or known[1] != counter._version:
            known = counter, counter._version, int(counter)
            self._known[path] = known
        return known[2]

    @staticmethod
    def _counter(members: Members, segment: Segment, hint: Events, batch: Batch) -> Tensor:
        """The counter of a member, which is among the tensors that its leaves share."""
        (skeleton,) = members.skeleton_of(segment).values()
        at = members.shared(segment).start
        for name, child in children(skeleton) or ():
            if name == hint.count:
                break
            at += shared_in(child)
        return batch.shared[at]


@dataclass(frozen=True)
class _Begin(GradientTransformation):
    """What happens to the state of a member before a step, and nothing else."""

    member: GradientTransformation
    hint: Events

    @property
    def name(self) -> str:
        return self.member.name

    def init(self, params: PyTree) -> PyTree:
        return self.member.init(params)

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        return updates, self.hint.begin(self.member, params, state)


def with_states(batch: Batch, pairs: Pairs) -> Batch:
    """The same leaves with other state tensors in the places of some."""
    new = {id(old): x for old, x in pairs}
    return dataclasses.replace(
        batch,
        states=[[new.get(id(s), s) for s in states] for states in batch.states],
        shared=[new.get(id(s), s) for s in batch.shared],
    )
