"""A chain as a flat sequence of members that are fused, or not, one by one.

A quotient that comes first is two such members, or more: those of its numerator, then the
denominator, which starts from the gradient once more and divides what there is by its result. A
partition is the members of all its transforms, each for the leaves with its label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...core import hyper as hyper_
from ...core import tree
from ...core.chain import Chain
from ...core.execution import Execution, low_rank_form
from ...core.protocol import GradientTransformation
from ...core.quotient import quotient
from ...core.select import keep, merge, partition
from ...core.tree import PyTree
from .specialize import Labelled

Path = tuple[str, ...]


def paths(tx: GradientTransformation) -> list[Path]:
    """Where the members stand in a transform and in its state, in order of evaluation.

    >>> import gradtx as gx
    >>> from gradtx.fuse.frontend.sequence import paths
    >>> paths(gx.chain(gx.quotient(gx.trace(0.9), gx.root_second_moment()), gx.scale(-1.0)))
    [('quotient', 'numerator'), ('quotient', 'denominator'), ('scale',)]
    """
    if not isinstance(tx, Chain):
        return _inside(tx, True)
    out: list[Path] = []
    for name, member in tx:
        out += [(name, *path) for path in _inside(member, not out)]
    return out


def _inside(member: GradientTransformation, first: bool) -> list[Path]:
    """Where the members stand in a member of a chain."""
    if isinstance(member, quotient) and first:
        above = [("numerator", *path) for path in _steps(member.numerator)]
        return [*above, ("denominator",)]
    if isinstance(member, partition):
        return [(k, *path) for k, tx in member.inner.items() for path in _steps(tx)]
    return [()]


def _steps(tx: GradientTransformation) -> list[Path]:
    return [(name,) for name in tx.inner] if isinstance(tx, Chain) else [()]


def at(node: Any, path: Path) -> Any:
    """What stands there in a state."""
    for name in path:
        node = node[name]
    return node


@dataclass(frozen=True)
class Over(GradientTransformation):
    """Divides updates by what a transform makes of the gradients."""

    source: quotient

    @property
    def name(self) -> str:
        return self.source.denominator.name

    @property
    def execution(self) -> Execution:  # type: ignore[override]
        return self.source.denominator.execution

    @property
    def inner(self) -> Mapping[str, GradientTransformation]:
        return self.source.denominator.inner

    def init(self, params: PyTree) -> PyTree:
        return self.source.denominator.init(params)

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        below, state = self.source.denominator.update(extra["grads"], state, params, **extra)
        return tree.map(self.source.by, updates, below), state


@dataclass(frozen=True)
class OfLabel(GradientTransformation):
    """A member of a partition's transform, for the leaves with its label; others pass through."""

    execution: ClassVar[Execution] = Execution(
        cannot_raise=True, low_rank_form=lambda tx: tx.low_rank_form()
    )

    source: partition
    label: str
    transform: GradientTransformation

    @property
    def name(self) -> str:
        return self.transform.name

    @property
    def inner(self) -> Mapping[str, GradientTransformation]:
        return {self.name: self.transform}

    def init(self, params: PyTree) -> PyTree:
        return self.transform.init(keep(params, self._chosen(params, params)))

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        chosen = self._chosen(updates, params)
        extra["grads"] = keep(extra["grads"], chosen)
        new, state = self.transform.update(keep(updates, chosen), state, params, **extra)
        return merge(updates, chosen, new), state

    def low_rank_form(self) -> OfLabel | None:
        """The same for executors, with the member in its form for them."""
        form = low_rank_form(self.transform)
        return None if form is None else replace(self, transform=form)

    def _chosen(self, updates: PyTree, params: PyTree) -> list[bool]:
        return [str(label) == self.label for label in self.source.labels(updates, params)]


@dataclass(frozen=True)
class Sequence(GradientTransformation):
    """Some of the members of a transform; the state is a dict by dotted path."""

    execution: ClassVar[Execution] = Execution(cannot_raise=True)

    members: tuple[tuple[Path, GradientTransformation], ...]

    @staticmethod
    def of(tx: GradientTransformation, chosen: list[Path]) -> Sequence:
        """These members of a transform."""
        return Sequence(tuple((path, _find(tx, path)) for path in chosen))

    @property
    def inner(self) -> Mapping[str, GradientTransformation]:
        return {".".join(path): tx for path, tx in self.members}

    def init(self, params: PyTree) -> PyTree:
        return {name: tx.init(params) for name, tx in self.inner.items()}

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        extra.setdefault("grads", updates)
        new = {}
        for path, tx in self.members:
            hyper, name = extra.get("hyper"), ".".join(path)
            for step in path:
                hyper = hyper_.scoped(hyper, step)
            given = {**extra, "hyper": hyper}
            updates, new[name] = tx.update(updates, state[name], params, **given)
        return updates, new


def _find(tx: GradientTransformation, path: Path) -> GradientTransformation:
    for i, name in enumerate(path):
        bare = _bare(tx)
        if name == "denominator" and isinstance(bare, quotient):
            over = Over(bare)
            return Labelled(".".join(path), over) if isinstance(tx, Labelled) else over
        if isinstance(bare, partition):
            return OfLabel(bare, name, _find(bare.inner[name], path[i + 1 :]))
        tx = tx.inner[name]
    return tx


def _bare(tx: GradientTransformation) -> GradientTransformation:
    return tx.transform if isinstance(tx, Labelled) else tx
