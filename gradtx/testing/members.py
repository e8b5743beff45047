"""The hyperparameters inside a transform, and the transform with other ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..core import hyper as hyper_
from ..core.protocol import GradientTransformation, members


@dataclasses.dataclass(frozen=True)
class Dynamic:
    """One dynamic hyperparameter somewhere inside a transform."""

    path: str  # of the member, "" for the transform itself
    member: Any
    name: str

    @property
    def key(self) -> str:
        """What ``hyper`` calls it."""
        return f"{self.path}.{self.name}".lstrip(".")

    @property
    def label(self) -> str:
        """How errors begin that are about it."""
        return f"{self.member.name}: {self.name} "

    @property
    def value(self) -> Any:
        """Its present value, which may be a schedule."""
        return getattr(self.member, self.name)

    def bounds(self) -> tuple[float, float]:
        """The ends of its interval."""
        low, high = (float(x) for x in self._within[1:-1].split(","))
        return low, high

    def other_value(self, share: float = 0.5) -> float:
        """Another admissible value: part of the way to the upper bound, or that much more.

        Single precision holds it, so that tensors of all dtypes mean the same.
        """
        low, high = self.bounds()
        now = 0.5 if callable(self.value) else float(self.value)
        if high == math.inf:
            other = now + share
        else:
            other = now + share * (high - now) if now < high else now - share * (now - low)
        return float(np.float32(other))

    def outside(self) -> Iterator[float]:
        """Values that must be refused."""
        low, high = self.bounds()
        yield float("nan")
        yield low if self._within[0] == "(" else math.nextafter(low, -math.inf)
        yield high if self._within[-1] == ")" else math.nextafter(high, math.inf)

    @property
    def _within(self) -> str:
        return str(self.member.declared[self.name])


def dynamics(tx: GradientTransformation) -> list[Dynamic]:
    """All dynamic hyperparameters of all members."""
    return [
        Dynamic(path, member, name)
        for path, member in members(tx)
        if dataclasses.is_dataclass(member)
        for name in hyper_.dynamic_fields(member)
    ]


def reached(ds: list[Dynamic], d: Dynamic) -> list[Any]:
    """The members that ``"member.name"`` of ``d`` reaches: its own, and those inside it."""
    same = [e for e in ds if e.name == d.name]
    return [e.member for e in same if f"{e.path}.".startswith(f"{d.path}." if d.path else "")]


def static_fields(member: Any) -> list[str]:
    """The names of the options of a member that fix structure."""
    fields = dataclasses.fields(member) if dataclasses.is_dataclass(member) else ()
    return [f.name for f in fields if f.init and f.metadata.get("gradtx.kind") == "static"]


def replaced(member: Any, **new: Any) -> Any:
    """A member with other values of fields."""
    return dataclasses.replace(member, **new)


def rebuild(tx: Any, replace: Callable[[Any], Any]) -> Any:
    """``tx`` with ``replace`` applied to it and to every transform inside, outer ones first."""
    if isinstance(tx, GradientTransformation):
        tx = replace(tx)
        fields = dataclasses.fields(tx) if dataclasses.is_dataclass(tx) else ()
        parts = {f.name: getattr(tx, f.name) for f in fields}
        new = {k: rebuild(v, replace) for k, v in parts.items() if holds_transform(v)}
        return replaced(tx, **new) if new else tx
    if isinstance(tx, Mapping):
        return {k: rebuild(v, replace) for k, v in tx.items()}
    return type(tx)(rebuild(v, replace) for v in tx) if isinstance(tx, (tuple, list)) else tx


def holds_transform(value: Any) -> bool:
    """Whether a value is a transform, or there is one in it."""
    if isinstance(value, GradientTransformation):
        return True
    if isinstance(value, Mapping):
        return any(holds_transform(v) for v in value.values())
    return isinstance(value, (tuple, list)) and any(holds_transform(v) for v in value)


def with_value(tx: Any, chosen: list[Any], name: str, value: Any) -> Any:
    """``tx`` rebuilt with another value of one hyperparameter of the chosen members."""
    return with_values(tx, [(member, name, value) for member in chosen])


def with_values(tx: Any, changes: list[tuple[Any, str, Any]]) -> Any:
    """``tx`` rebuilt with other values of hyperparameters: (member, name, value)."""

    def replace(member: Any) -> Any:
        new = {name: value for changed, name, value in changes if changed is member}
        return replaced(member, **new) if new else member

    return rebuild(tx, replace)


def with_seed(node: Any, seed: Any) -> Any:
    """A transform with another seed wherever it or anything inside has one."""
    if isinstance(node, Mapping):
        return {k: with_seed(v, seed) for k, v in node.items()}
    if isinstance(node, tuple) and not hasattr(node, "_fields"):
        return tuple(with_seed(v, seed) for v in node)
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        return node
    parts = {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.init}
    new = {k: seed if k == "seed" else with_seed(v, seed) for k, v in parts.items()}
    changed = {k: v for k, v in new.items() if v is not parts[k]}
    return dataclasses.replace(node, **changed) if changed else node
