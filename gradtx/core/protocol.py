"""The protocol: a pure pair of ``init`` and ``update``, and transforms around another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import hyper as hyper_
from .autocast import define_outside_autocast
from .tree import PyTree


class GradientTransformation:
    """A pure pair ``init`` / ``update``.

    Neither modifies its arguments, and both run outside autocast. ``extra`` carries what some
    members need and others ignore: ``hyper`` (overrides of dynamic hyperparameters by name),
    ``grads`` (the gradients that entered the outermost chain), ``value`` (the loss), ``reduce``
    (sums over shards), ``unit`` (the factor by which a wrapper has scaled the gradients; absolute
    constants such as eps scale with it).

    >>> import torch, gradtx as gx
    >>> class halve(gx.GradientTransformation):
    ...     def init(self, params):
    ...         return ()
    ...     def update(self, updates, state, params=None, **extra):
    ...         return gx.tree.map(lambda u: u / 2, updates), state
    >>> gx.chain(halve(), gx.scale(3.0)).update({"w": torch.ones(1)}, {"halve": (), "scale": ()})[0]
    {'w': tensor([1.5000])}
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        define_outside_autocast(cls, "init", "update")

    def init(self, params: PyTree) -> PyTree:
        """The state for these parameters."""
        raise NotImplementedError(f"{self.name}: init is not defined")

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        """Transform the updates and advance the state."""
        raise NotImplementedError(f"{self.name}: update is not defined")

    @property
    def name(self) -> str:
        """The name used in chains, state keys and errors."""
        return type(self).__name__

    @property
    def inner(self) -> Mapping[str, GradientTransformation]:
        """The transforms that this one is made of, by name."""
        return {}

    @property
    def per_leaf(self) -> bool:
        """Whether leaves may be updated one by one, in any order, as far as it depends on this one.

        What all leaves share must then follow from what it was before the step. If it follows also
        from values that ``update`` passed to ``reduce.sum``, there is a method ``finish(shared,
        sums, hyper, count)`` that makes the field ``shared`` of the next state from that of this
        one: ``sums`` are those values added over all leaves, ``hyper`` the overrides ``update``
        got, as lists over leaves, ``count`` the updates done before, for schedules.
        """
        return False

    @property
    def steady(self) -> bool:
        """Whether ``update`` cannot raise for other values where it has not raised before.

        As far as it depends on this one; tensors have the same shapes and dtypes. Executors may
        then write some leaves before they update others.
        """
        return False

    def update_inner(
        self, name: str, updates: PyTree, state: PyTree, params: PyTree, extra: Mapping[str, Any]
    ) -> tuple[PyTree, PyTree]:
        """Run one of ``inner``, with the hyperparameter overrides that are meant for it."""
        hyper = hyper_.scoped(extra.get("hyper"), name)
        return self.inner[name].update(updates, state, params, **{**extra, "hyper": hyper})


@dataclass(frozen=True)
class Wrapper(GradientTransformation):
    """Base class of transforms built around one other transform."""

    transform: GradientTransformation

    @property
    def inner(self) -> Mapping[str, GradientTransformation]:
        return {self.transform.name: self.transform}

    def update_transform(
        self, updates: PyTree, state: PyTree, params: PyTree, extra: Mapping[str, Any]
    ) -> tuple[PyTree, PyTree]:
        """Run the wrapped transform."""
        return self.update_inner(self.transform.name, updates, state, params, extra)


def members(tx: GradientTransformation) -> list[tuple[str, GradientTransformation]]:
    """All transforms inside ``tx``, itself included, with their dotted member names."""
    out: list[tuple[str, GradientTransformation]] = [("", tx)]
    for name, child in tx.inner.items():
        for path, grandchild in members(child):
            out.append((f"{name}.{path}".rstrip("."), grandchild))
    return out


def declared_hyper(tx: GradientTransformation) -> dict[str, Any]:
    """Dynamic hyperparameters of every member, ``"member.name" -> value``."""
    out: dict[str, Any] = {}
    for path, member in members(tx):
        if dataclasses.is_dataclass(member):
            for name in hyper_.dynamic_fields(member):
                out[f"{path}.{name}".lstrip(".")] = getattr(member, name)
    return out
