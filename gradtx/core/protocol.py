"""The protocol: a pure pair of ``init`` and ``update``, and transforms around another."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from . import hyper as hyper_
from . import tree
from .autocast import define_outside_autocast
from .errors import described
from .execution import Execution, inherit
from .names import unknown_override
from .plain import Plain, same_attributes
from .tree import PyTree


class GradientTransformation(Plain):
    """A pure pair ``init`` / ``update``.

    Neither modifies its arguments, and both run outside autocast. ``extra`` carries what some
    members need and others ignore: ``hyper`` (overrides of dynamic hyperparameters by name),
    ``grads`` (the gradients that entered the outermost chain), ``value`` (the loss), ``reduce``
    (sums over shards), ``unit`` (the factor by which a wrapper has scaled the gradients; absolute
    constants such as eps scale with it). What executors may rely on is declared in ``execution``.

    >>> import torch, gradtx as gx
    >>> class halve(gx.GradientTransformation):
    ...     def init(self, params):
    ...         return ()
    ...     def update(self, updates, state, params=None, **extra):
    ...         return gx.tree.map(lambda u: u / 2, updates), state
    >>> gx.chain(halve(), gx.scale(3.0)).update({"w": torch.ones(1)}, {"halve": (), "scale": ()})[0]
    {'w': tensor([1.5000])}
    """

    declared: ClassVar[Mapping[str, str]] = {}
    execution: ClassVar[Execution] = Execution()
    evaluates: bool = False  # whether update calls value_fn or grad_fn

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        inherit(cls)
        define_outside_autocast(cls, "init", "update")
        if "update" in cls.__dict__:
            cls.update = _with_known_names(cls.update)  # type: ignore[method-assign]

    def _prepare(self) -> None:
        super()._prepare()
        if "declared" not in vars(type(self)):
            type(self).declared = hyper_.declare(type(self))
        hyper_.validate(self, self.name)

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

    def update_inner(
        self, name: str, updates: PyTree, state: PyTree, params: PyTree, extra: Mapping[str, Any]
    ) -> tuple[PyTree, PyTree]:
        """Run one of ``inner``, with the hyperparameter overrides that are meant for it."""
        hyper = hyper_.scoped(extra.get("hyper"), name)
        return self.inner[name].update(updates, state, params, **{**extra, "hyper": hyper})

    def values(
        self, updates: PyTree, extra: Mapping[str, Any], count: Tensor | None = None
    ) -> PyTree:
        """The own dynamic hyperparameters of this call, for classes that define ``update``.

        Args:
            updates: what ``update`` got.
            extra: what it got besides.
            count: updates done before, for schedules.

        Returns:
            A tree like the updates: at every leaf an object with a value by attribute.
        """
        leaves, spec = tree.flatten(updates)
        values = hyper_.values_at(self, count)
        given = hyper_.overrides(self, extra.get("hyper"), spec, leaves)
        return spec.unflatten(
            [
                hyper_.Values({**values, **{k: v[i] for k, v in given.items() if v[i] is not None}})
                for i in range(len(leaves))
            ]
        )


def _with_known_names(update: Callable[..., Any]) -> Callable[..., Any]:
    """``update`` that refuses overrides of what no member has, where it is called first."""

    @functools.wraps(update)
    def checked(self: GradientTransformation, *args: Any, **extra: Any) -> Any:
        hyper = extra.get("hyper")
        if hyper and not isinstance(hyper, hyper_.Overrides):
            extra = {**extra, "hyper": check_names(self, hyper)}  # Dynamo minds dicts that change
        return update(self, *args, **extra)

    return checked


def check_names(
    tx: GradientTransformation, hyper: Mapping[str, Any], known: set[str] | None = None
) -> hyper_.Overrides:
    """The overrides, once every name reaches a hyperparameter of ``tx`` or inside it.

    A name without a dot may also be that of a hyperparameter of any other transform.

    Args:
        tx: the transform.
        hyper: overrides by name.
        known: what ``override_names`` gives for ``tx``.

    Raises:
        ValueError: a name that does not (says which one was meant).
        TypeError: no mapping.
    """
    if not isinstance(hyper, Mapping):
        raise TypeError(
            f"{tx.name}: hyper must be a mapping from names to values, got {type(hyper).__name__}"
        )
    known = override_names(tx) if known is None else known
    for name in hyper:
        if name not in known and not _is_of_another(name):
            raise unknown_override(tx.name, name, known)
    return hyper_.Overrides(hyper)


def _is_of_another(name: Any) -> bool:
    """Whether some transform has it: one mapping may serve chains that differ in their members."""
    kinds: list[type] = [GradientTransformation]
    while kinds:
        kind = kinds.pop()
        if dataclasses.is_dataclass(kind) and name in hyper_.declare(kind):
            return True
        kinds += kind.__subclasses__()
    return False


def override_names(tx: GradientTransformation) -> set[str]:
    """The names that ``hyper`` may have: those of hyperparameters, alone or after members."""
    known = set()
    for full in declared_hyper(tx):
        *path, name = full.split(".")
        known |= {".".join((*path[:i], name)) for i in range(len(path) + 1)}
    return known


@dataclass(frozen=True, eq=False)
class Wrapper(GradientTransformation):
    """Base class of transforms built around one other transform.

    Subclass it as a frozen dataclass, declare hyperparameters with ``dynamic`` and ``static``, and
    define ``init`` and ``update``; ``values`` gives those of a call, ``update_transform`` runs what
    is inside.

    >>> import dataclasses, torch, gradtx as gx
    >>> @dataclasses.dataclass(frozen=True)
    ... class damped(gx.Wrapper):
    ...     factor: gx.Hyper = gx.dynamic(0.5, within="[0, 1]")
    ...     def init(self, params):
    ...         return self.transform.init(params)
    ...     def update(self, updates, state, params=None, **extra):
    ...         new, state = self.update_transform(updates, state, params, extra)
    ...         hs = self.values(updates, extra)
    ...         return gx.tree.map(lambda u, h: h.factor * u, new, hs), state
    >>> damped(gx.scale(-1.0)).update({"w": torch.ones(1)}, (), hyper={"factor": 0.25})[0]
    {'w': tensor([-0.2500])}
    """

    given_as: ClassVar[str] = "transform"  # the argument's name in messages

    transform: GradientTransformation

    def __eq__(self, other: object) -> Any:
        return same_attributes(self, other)

    def __hash__(self) -> int:
        return hash(type(self))

    def _prepare(self) -> None:
        super()._prepare()
        if not isinstance(self.transform, GradientTransformation):
            raise TypeError(
                f"{self.name}: {self.given_as} must be a GradientTransformation, "
                f"got {described(self.transform)}"
            )

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


def require_transform(who: str, value: Any) -> None:
    """Raise TypeError where something else stands in a transform's place.

    >>> import gradtx as gx
    >>> from gradtx.core.protocol import require_transform
    >>> require_transform("fuse", gx.adam)
    Traceback (most recent call last):
    TypeError: fuse: expected a GradientTransformation, got the function adam; call it: adam(...)
    """
    if not isinstance(value, GradientTransformation):
        raise TypeError(f"{who}: expected a GradientTransformation, got {described(value)}")
