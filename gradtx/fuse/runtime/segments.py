"""A chain as segments that are fused and members that run as torch operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ...core.chain import Chain
from ...core.execution import holds, low_rank_form
from ...core.protocol import GradientTransformation, members
from ...core.tree import accumulator_dtype
from ..frontend.forms import Form, Forms, form_of
from ..frontend.layout import Structure, shared_in, sites_in
from ..frontend.sequence import Path, Sequence, at, paths
from ..frontend.specialize import Choice, specialize
from ..frontend.trace import Signature, trace
from ..ir.errors import CannotFuseError
from ..ir.graph import TREE_REDUCTIONS, Graph
from ..ir.squares import with_squares
from .backend import BackEnd
from .check import check


@dataclass(frozen=True)
class Segment:
    """Members ``start`` to ``stop`` of a chain, fused or run as they are.

    Attributes:
        factored: the update between this segment and its neighbour is the gradient times something
            small, and that is all that one gives to the other.
        measured: squared norms of the gradient's rows or columns come with it.
    """

    start: int
    stop: int
    fused: bool
    factored: bool = False
    measured: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of leaf: leaves of one kind have the same graphs."""

    choice: Choice
    signature: Signature


class Members:
    """Where the members of a chain have their states.

    Args:
        tx: the transform; anything but a chain counts as one member.
        skeleton: a state of one leaf.
    """

    def __init__(self, tx: GradientTransformation, skeleton: Any) -> None:
        self.tx = tx
        self.skeleton = skeleton
        self.paths = paths(tx)
        self.names = [".".join(path) for path in self.paths]
        each = [at(skeleton, path) for path in self.paths]
        self._sites = _offsets([sites_in(s) for s in each])
        self._shared = _offsets([shared_in(s) for s in each])

    def members_of(self, segment: Segment) -> list[Path]:
        """The members of a segment."""
        return self.paths[segment.start : segment.stop]

    def skeleton_of(self, segment: Segment) -> Any:
        """The skeleton of a segment's state."""
        return {".".join(path): at(self.skeleton, path) for path in self.members_of(segment)}

    def structure(self, segment: Segment, whole: Any) -> tuple[Any, slice]:
        """A leaf's structure in a segment, and where its tensors are in the leaf's list."""
        return whole.part(self._sites[segment.start], self._sites[segment.stop])

    def shared(self, segment: Segment) -> slice:
        """Where a segment's shared tensors are in the list of all."""
        return slice(self._shared[segment.start], self._shared[segment.stop])


# Of segments for kinds of leaves; where there is none, the member that it fails at, and why.
Graphs: TypeAlias = "dict[tuple[Segment, Kind], Graph | tuple[str, str]]"


class Segments(Members):
    """Graphs of a chain's segments for kinds of leaves, traced when first asked for.

    Args:
        tx: the transform; anything but a chain counts as one member.
        skeleton: a state of one leaf.
        values: declared hyperparameters by full name.
        back_end: what runs the segments.
        graphs: those that are known; new ones are put there.
    """

    def __init__(
        self,
        tx: GradientTransformation,
        skeleton: Any,
        values: Mapping[str, Any],
        back_end: BackEnd,
        graphs: Graphs,
    ) -> None:
        super().__init__(tx, skeleton)
        self.values = values
        self.back_end = back_end
        self.refused: dict[str, str] = {}
        self._graphs = graphs
        self._members: dict[tuple[Segment, Choice | None], GradientTransformation] = {}
        self._one_by_one = all(
            holds(m, "leaves_independent") and m.execution.next_shared is None
            for _, m in members(tx)
        )

    def cuts(self, kinds: list[Kind]) -> dict[Kind, tuple[Segment, ...]]:
        """The segments in which every kind of leaves is updated.

        Where no member joins leaves, a kind that cannot be fused leaves the others alone.

        Raises:
            CannotFuseError: no member can be fused.
        """
        if self._one_by_one and len(kinds) > 1:
            found: dict[Kind, tuple[Segment, ...]] = {}
            for kind in kinds:
                try:
                    found[kind] = self.cut([kind])
                except CannotFuseError as error:
                    self._note(error)
                    found[kind] = self._none()
            if any(cut != self._none() for cut in found.values()):
                joined = any(
                    self._joins(segment, kind) for kind, cut in found.items() for segment in cut
                )
                if not joined:
                    for kind, cut in found.items():
                        self.graph(cut[-1], kind)
                    return found
        return dict.fromkeys(kinds, self.cut(kinds))

    def one_by_one(self, cut: tuple[Segment, ...], kinds: list[Kind]) -> bool:
        """Whether leaves can as well go through these segments one after the other."""
        pure = [segment for segment in cut if not segment.fused]
        if not pure or not self._one_by_one or self.late(cut) is not None:
            return False
        if any(self._joins(segment, kind) for segment in cut for kind in dict.fromkeys(kinds)):
            return False
        return not any(holds(m, "precomputes") for m in self._as_they_are(cut))

    def cannot_raise(self, cut: tuple[Segment, ...]) -> bool:
        """Whether there are members that run as they are and cannot fail where they have not."""
        found = self._as_they_are(cut)
        return bool(found) and all(holds(m, "cannot_raise") for m in found)

    def _as_they_are(self, cut: tuple[Segment, ...]) -> list[GradientTransformation]:
        """All that runs as torch operations."""
        pure = [segment for segment in cut if not segment.fused]
        return [m for segment in pure for _, m in members(self.as_it_is(segment))]

    def _none(self) -> tuple[Segment, ...]:
        """All members as they are."""
        n = len(self.names)
        return (*(Segment(i, i + 1, False) for i in range(n)), Segment(n, n, True))

    def _joins(self, segment: Segment, kind: Kind) -> bool:
        """Whether a segment combines something over the tree."""
        nodes = self.graph(segment, kind).nodes if segment.fused else ()
        return any(node.op in TREE_REDUCTIONS for node in nodes)

    def _note(self, error: CannotFuseError) -> None:
        self.refused.setdefault(error.member or self.tx.name, error.reason)

    def cut(self, kinds: list[Kind]) -> tuple[Segment, ...]:
        """The segments in which these kinds of leaves can be updated together.

        The last segment is fused and adds the update to the parameters; it may have no members.

        Raises:
            CannotFuseError: no member can be fused.
        """
        pure: dict[str, str] = {}
        while True:
            segments = self._around(pure)
            fused = [segment for segment in segments if segment.fused]
            if all(segment.start == segment.stop for segment in fused):
                member, reason = next(iter(pure.items()), ("", "the chain is empty"))
                raise CannotFuseError(member, reason)
            failure = self._first_failure(fused, kinds)
            if failure is None:
                self.refused.update(pure)
                return self._factored(segments, kinds)
            pure.update(self._blame(*failure, kinds))

    def _factored(self, segments: list[Segment], kinds: list[Kind]) -> tuple[Segment, ...]:
        """The same segments, with factors in place of the first update where that is possible."""
        first, *rest = segments
        if not first.fused and rest[0].fused and all(kind.signature.factor for kind in kinds):
            measured = len(segments) == 2 and any(kind.signature.squares for kind in kinds)
            changed = [
                replace(segment, factored=True, measured=measured) for segment in (first, rest[0])
            ]
            if self._first_failure(changed[1:], kinds) is None:
                return (*changed, *rest[1:])
        return tuple(segments)

    def graph(self, segment: Segment, kind: Kind) -> Graph:
        """The graph of a fused segment.

        Raises:
            CannotFuseError: names the member and the reason.
        """
        key = (segment, kind)
        if key not in self._graphs:
            try:
                skeleton, signature = (
                    self.skeleton_of(segment),
                    self.signature(segment, kind.signature),
                )
                apply = segment.stop == len(self.names) and not signature.blind
                graph = trace(self.transform(segment, kind.choice), skeleton, signature, apply)
                if signature.squares is not None:
                    graph = with_squares(graph, signature.squares)
                self._check_width(segment, kind, graph)
                pure = self.transform(segment, kind.choice, label=False)
                check(self.back_end, pure, skeleton, signature, self.values, apply, graph)
                self._graphs[key] = graph
            except CannotFuseError as error:
                # Never the error itself: its traceback holds the frames of a step, and gradients.
                self._graphs[key] = error.member, error.reason
        found = self._graphs[key]
        if isinstance(found, tuple):
            raise CannotFuseError(*found)
        return found

    # -- pieces of a segment ----------------------------------------------------------------------

    def transform(
        self, segment: Segment, choice: Choice, label: bool = True
    ) -> GradientTransformation:
        """The members of a segment as one transform for leaves with this choice."""
        return Sequence.of(specialize(self.tx, choice, label), self.members_of(segment))

    def as_it_is(self, segment: Segment, choice: Choice | None = None) -> GradientTransformation:
        """The members of a segment as one transform for all leaves, or for those with a choice."""
        if (segment, choice) not in self._members:
            tx = self.tx if choice is None else specialize(self.tx, choice, label=False)
            found = Sequence.of(tx, self.members_of(segment))
            if segment.factored:
                ((path, member),) = found.members
                found = Sequence(((path, _without_product(member)),))
            self._members[segment, choice] = found
        return self._members[segment, choice]

    def late(self, cut: tuple[Segment, ...]) -> tuple[Path, GradientTransformation] | None:
        """The first member in its form for the strategy ``late``, and where it stands.

        None if it has no such form, or if anything else runs as torch operations.
        """
        first = cut[0]
        if len(cut) != 2 or first.fused:
            return None
        ((path, member),) = Sequence.of(self.tx, self.members_of(first)).members
        if first.factored:
            return path, _without_product(member)
        form = low_rank_form(member)
        return None if form is None else (path, form)

    def signature(self, segment: Segment, whole: Signature) -> Signature:
        """The signature of a segment."""
        structure, where = self.structure(segment, whole.structure)
        return replace(
            whole,
            update=accumulator_dtype(whole.grad) if segment.start else None,
            factor=whole.factor if segment.factored else None,
            squares=whole.squares if segment.measured else None,
            states=whole.states[where],
            structure=structure,
            shared=whole.shared[self.shared(segment)],
        )

    # ------------------------------------------------------------------------------------------

    def _around(self, pure: dict[str, str]) -> list[Segment]:
        segments: list[Segment] = []
        start = 0
        for i, name in enumerate(self.names):
            if name in pure:
                if i > start:
                    segments.append(Segment(start, i, True))
                segments.append(Segment(i, i + 1, False))
                start = i + 1
        return [*segments, Segment(start, len(self.names), True)]

    def _first_failure(
        self, segments: list[Segment], kinds: list[Kind]
    ) -> tuple[Segment, str, str] | None:
        """The first segment that has no graph, the member that it fails at, and why."""
        for segment in segments:
            for kind in kinds:
                try:
                    self.graph(segment, kind)
                except CannotFuseError as error:  # kept, it would keep all frames above
                    return segment, error.member, error.reason
        return None

    def _blame(
        self, segment: Segment, member: str, reason: str, kinds: list[Kind]
    ) -> dict[str, str]:
        """The members of a segment that stand in the way."""
        names = self.names[segment.start : segment.stop]
        for name in names:
            if f"{member}.".startswith(f"{name}."):
                return {name: reason}
        if len(names) == 1:
            return {names[0]: reason}
        alone = {}
        for i, name in enumerate(names, segment.start):
            failure = self._first_failure([Segment(i, i + 1, True)], kinds)
            if failure is not None:
                alone[name] = failure[2]
        if not alone:
            raise CannotFuseError(member, reason)
        return alone

    def _check_width(self, segment: Segment, kind: Kind, graph: Graph) -> None:
        """Updates have the accumulator's dtype between segments, their own in a blind one."""
        for target, i in graph.outputs:
            signature = kind.signature
            want = signature.param if signature.blind else accumulator_dtype(signature.grad)
            if target.kind == "update" and graph.nodes[i].dtype != _name(want):
                raise CannotFuseError("", f"gives updates of dtype {graph.nodes[i].dtype}")


def _offsets(counts: list[int]) -> list[int]:
    out = [0]
    for n in counts:
        out.append(out[-1] + n)
    return out


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def kind_of(
    forms: Forms,
    p: Tensor,
    g: Tensor,
    states: list[Tensor],
    shared: list[Tensor],
    structure: Any,
    choice: Choice,
    names: tuple[tuple[str, ...], tuple[str, ...]],
    maximize: bool,
    tx: GradientTransformation,
    blind: bool,
) -> Kind:
    """The kind of a leaf."""
    described = forms.describe(p, choice, structure, states)
    return Kind(
        choice,
        Signature(
            described.probes,
            described.checks,
            g.dtype,
            p.dtype,
            None,
            tuple((s.dtype, form) for s, form in zip(states, described.forms, strict=True)),
            structure,
            tuple((s.dtype, form_of(s)) for s in shared),
            *names,
            maximize,
            *_factor_of(tx, p, g, structure),
            blind,
        ),
    )


def _factor_of(
    tx: GradientTransformation, p: Tensor, g: Tensor, structure: Structure
) -> tuple[Form | None, str | None]:
    """The form of what a chain's first member multiplies gradients with, if it does that.

    And the form of the squared norms of gradients that it gives besides, if it does.
    """
    first = next(iter(tx.inner.values()), None) if isinstance(tx, Chain) else None
    hint = None if first is None else first.execution.factored
    if first is None or hint is None:
        return None, None
    inside, _ = structure.part(0, 1)
    name = hint.form(first, tuple(p.shape), inside.subtrees([None] * inside.count)[0])
    if name is None:
        return None, None
    return Form(name, None if name == "scalar" else 1), hint.squares(first, g)


def _without_product(member: GradientTransformation) -> GradientTransformation:
    """A member whose updates are factors of the gradient."""
    assert member.execution.factored is not None
    return member.execution.factored.transform(member)
