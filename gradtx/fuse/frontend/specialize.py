"""Chains for one kind of leaf: choices resolved, members labelled with their path."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ...core.chain import Chain
from ...core.execution import Execution, holds
from ...core.functions import identity, stateless, transformation
from ...core.protocol import GradientTransformation, members
from ...core.select import freeze, label_leaves, masked, partition
from ...core.tree import PyTree
from ..ir.errors import CannotFuseError
from .layout import Key

# Only what declares one of these is traced leaf by leaf.
_SEPARABLE = ("leaves_independent", "reduces")
_SEPARABLE_TEXT = " and ".join(_SEPARABLE)

Choice = tuple[Hashable, ...]
_member: ContextVar[str] = ContextVar("member", default="")


def current_member() -> str:
    """The dotted name of the member that is running."""
    return _member.get()


@contextmanager
def inside(member: str) -> Any:
    """Name what runs in this block."""
    token = _member.set(member)
    try:
        yield
    finally:
        _member.reset(token)


def selectors(tx: GradientTransformation) -> list[GradientTransformation]:
    """The members that treat leaves differently by name or shape."""
    return [m for _, m in members(tx) if _field(m) is not None]


def _field(tx: GradientTransformation) -> str | None:
    """The field of a member that says how it treats a leaf."""
    if isinstance(tx, partition):
        return "by"
    if isinstance(tx, (masked, freeze)):
        return "mask"
    hint = tx.execution.chooses
    return None if hint is None else hint(tx)


def choices(tx: GradientTransformation, updates: PyTree, params: PyTree) -> list[Choice]:
    """For every leaf, what every selector decides."""
    columns = []
    for selector in selectors(tx):
        by = getattr(selector, str(_field(selector)))
        labels = label_leaves(selector.name, by, updates, params)
        if not isinstance(selector, partition):
            labels = [bool(x) for x in labels]
        columns.append(labels)
    return list(zip(*columns, strict=True))


class Labelled(GradientTransformation):
    """A member that announces itself while it runs."""

    def __init__(self, path: str, transform: GradientTransformation) -> None:
        self.path = path
        self.transform = transform

    @property
    def execution(self) -> Execution:  # type: ignore[override]
        return self.transform.execution

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transform, name)

    @property
    def name(self) -> str:
        return self.transform.name

    @property
    def inner(self) -> Mapping[str, GradientTransformation]:
        return self.transform.inner

    def init(self, params: PyTree) -> PyTree:
        return self.transform.init(params)

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        if not self.inner and not any(holds(self.transform, hint) for hint in _SEPARABLE):
            raise CannotFuseError(
                self.path, "may look at several leaves: it declares neither of " + _SEPARABLE_TEXT
            )
        with inside(self.path):
            if not isinstance(self.transform, (transformation, stateless)):
                return self.transform.update(updates, state, params, **extra)
            Key.read = False
            out = self.transform.update(updates, state, params, **extra)
            if Key.read:
                raise CannotFuseError(self.path, "depends on the names of leaves")
            return out


def specialize(
    tx: GradientTransformation, choice: Choice, label: bool = True
) -> GradientTransformation:
    """The chain as leaves with this choice see it, every member labelled."""
    decisions = iter(choice)
    resolved: dict[int, Callable[[Any], Any]] = {}
    for selector in selectors(tx):
        resolved[id(selector)] = _constant(next(decisions))
    return _rebuild(tx, "", resolved, label)


def _constant(value: Hashable) -> Callable[[Any], Hashable]:
    return lambda _: value


def _rebuild(
    tx: GradientTransformation,
    path: str,
    resolved: Mapping[int, Callable[[Any], Any]],
    label: bool,
) -> GradientTransformation:
    changes: dict[str, Any] = {}
    if id(tx) in resolved:
        changes[str(_field(tx))] = resolved[id(tx)]
    if dataclasses.is_dataclass(tx):
        names = {id(child): name for name, child in tx.inner.items()}

        def visit(value: Any) -> Any:
            if isinstance(value, GradientTransformation):
                name = names.get(id(value), "")
                return _rebuild(value, f"{path}.{name}".strip("."), resolved, label)
            if isinstance(value, Mapping):
                return {k: visit(v) for k, v in value.items()}
            if type(value) is tuple:
                return tuple(visit(v) for v in value)
            return value

        if tx.inner:
            for f in dataclasses.fields(tx):
                changes[f.name] = changes.get(f.name, visit(getattr(tx, f.name)))
        if changes:
            tx = dataclasses.replace(tx, **changes)
    if not label or isinstance(tx, (Chain, identity)):
        return tx
    return Labelled(path, tx)
