"""A chain as parts that are fused and members that run as torch operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.chain import Chain
from ..core.protocol import GradientTransformation
from ..core.tree import accumulator_dtype
from .backend import BackEnd
from .check import check
from .errors import CannotFuseError
from .forms import Forms, form_of
from .graph import Graph
from .layout import shared_in, sites_in
from .specialize import Choice, specialize
from .trace import Signature, trace


@dataclass(frozen=True)
class Part:
    """Members ``start`` to ``stop`` of a chain, fused or run as they are."""

    start: int
    stop: int
    fused: bool


@dataclass(frozen=True)
class Kind:
    """A kind of leaf: leaves of one kind have the same graphs."""

    choice: Choice
    signature: Signature


class Parts:
    """Graphs of a chain's parts for kinds of leaves, traced when first asked for.

    Args:
        tx: the transform; anything but a chain counts as one member.
        skeleton: a state of one leaf.
        values: declared hyperparameters by full name.
        back_end: what runs the parts.
    """

    def __init__(
        self,
        tx: GradientTransformation,
        skeleton: Any,
        values: Mapping[str, Any],
        back_end: BackEnd,
    ) -> None:
        self.tx = tx
        self.values = values
        self.back_end = back_end
        self.skeleton = skeleton
        self.names = list(tx.inner) if isinstance(tx, Chain) else [""]
        self.refused: dict[str, str] = {}
        self._graphs: dict[tuple[int, int, Kind], Graph | CannotFuseError] = {}
        each = [skeleton[n] for n in self.names] if isinstance(tx, Chain) else [skeleton]
        self._sites = _offsets([sites_in(s) for s in each])
        self._shared = _offsets([shared_in(s) for s in each])

    def cut(self, kinds: list[Kind]) -> list[Part]:
        """The parts in which these kinds of leaves can be updated together.

        The last part is fused and adds the update to the parameters; it may have no members.

        Raises:
            CannotFuseError: no member can be fused.
        """
        pure: dict[str, str] = {}
        while True:
            parts = self._around(pure)
            fused = [part for part in parts if part.fused]
            if all(part.start == part.stop for part in fused):
                member, reason = next(iter(pure.items()), ("", "the chain is empty"))
                raise CannotFuseError(member, reason)
            failure = self._first_failure(fused, kinds)
            if failure is None:
                self.refused.update(pure)
                return parts
            part, error = failure
            pure.update(self._blame(part, error, kinds))

    def graph(self, part: Part, kind: Kind) -> Graph:
        """The graph of a fused part.

        Raises:
            CannotFuseError: names the member and the reason.
        """
        key = (part.start, part.stop, kind)
        if key not in self._graphs:
            try:
                skeleton, signature = self.skeleton_of(part), self.signature(part, kind.signature)
                apply = part.stop == len(self.names)
                graph = trace(self.transform(part, kind.choice), skeleton, signature, apply)
                self._check_width(part, kind, graph)
                pure = self.transform(part, kind.choice, label=False)
                check(self.back_end, pure, skeleton, signature, self.values, apply, graph)
                self._graphs[key] = graph
            except CannotFuseError as error:
                self._graphs[key] = error
        found = self._graphs[key]
        if isinstance(found, CannotFuseError):
            raise found
        return found

    # -- pieces of a part ----------------------------------------------------------------------

    def transform(self, part: Part, choice: Choice, label: bool = True) -> GradientTransformation:
        """The members of a part as one transform for leaves with this choice."""
        whole = specialize(self.tx, choice, label)
        return Chain(whole.members[part.start : part.stop]) if isinstance(whole, Chain) else whole

    def skeleton_of(self, part: Part) -> Any:
        """The skeleton of a part's state."""
        if not isinstance(self.tx, Chain):
            return self.skeleton
        return {n: self.skeleton[n] for n in self.names[part.start : part.stop]}

    def structure(self, part: Part, whole: Any) -> tuple[Any, slice]:
        """A leaf's structure in a part, and where its tensors are in the leaf's list."""
        return whole.part(self._sites[part.start], self._sites[part.stop])

    def shared(self, part: Part) -> slice:
        """Where a part's shared tensors are in the list of all."""
        return slice(self._shared[part.start], self._shared[part.stop])

    def signature(self, part: Part, whole: Signature) -> Signature:
        """The signature of a part."""
        structure, where = self.structure(part, whole.structure)
        return replace(
            whole,
            update=accumulator_dtype(whole.grad) if part.start else None,
            states=whole.states[where],
            structure=structure,
            shared=whole.shared[self.shared(part)],
        )

    # ------------------------------------------------------------------------------------------

    def _around(self, pure: dict[str, str]) -> list[Part]:
        parts: list[Part] = []
        start = 0
        for i, name in enumerate(self.names):
            if name in pure:
                if i > start:
                    parts.append(Part(start, i, True))
                parts.append(Part(i, i + 1, False))
                start = i + 1
        return [*parts, Part(start, len(self.names), True)]

    def _first_failure(
        self, parts: list[Part], kinds: list[Kind]
    ) -> tuple[Part, CannotFuseError] | None:
        for part in parts:
            for kind in kinds:
                try:
                    self.graph(part, kind)
                except CannotFuseError as error:
                    return part, error
        return None

    def _blame(self, part: Part, error: CannotFuseError, kinds: list[Kind]) -> dict[str, str]:
        """The members of a part that stand in the way."""
        names = self.names[part.start : part.stop]
        named = error.member.split(".")[0]
        if named in names:
            return {named: error.reason}
        if len(names) == 1:
            return {names[0]: error.reason}
        alone = {}
        for i, name in enumerate(names, part.start):
            failure = self._first_failure([Part(i, i + 1, True)], kinds)
            if failure is not None:
                alone[name] = failure[1].reason
        if not alone:
            raise error
        return alone

    def _check_width(self, part: Part, kind: Kind, graph: Graph) -> None:
        """Updates travel between parts in the accumulator's dtype."""
        for target, i in graph.outputs:
            want = accumulator_dtype(kind.signature.grad)
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
        ),
    )
