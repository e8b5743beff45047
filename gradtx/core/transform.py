"""The protocol: pure ``init`` and ``update``, for one leaf or for a whole tree.

``LeafTransform`` says what happens to one leaf; the base class maps it over the tree and keeps the
state per leaf. ``TreeTransform`` sees all leaves at once and keeps what they share apart.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from . import hyper as hyper_
from . import tree
from .errors import TreeMismatchError, UnsupportedLeafError, shape_mismatch
from .hyper import Values
from .leaves import STRUCTURED, LeafInfo
from .reduce import LOCAL, Reduce
from .state import new_count
from .tree import PyTree


class GradientTransformation:
    """A pure pair ``init`` / ``update``.

    Neither modifies its arguments. ``extra`` carries what some members need and others ignore:
    ``hyper`` (overrides of dynamic hyperparameters by name), ``grads`` (the gradients that entered
    the outermost chain), ``value`` (the loss), ``reduce`` (sums over shards).
    """

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


class ScheduledState(NamedTuple):
    """State of a transform one of whose hyperparameters is a schedule.

    Attributes:
        step: int32, updates done so far, shared by all leaves.
        state: the transform's own state.
    """

    step: Tensor
    state: PyTree


class TreeState(NamedTuple):
    """State of a tree transform.

    Attributes:
        leaves: tree like the parameters with one state per leaf, or ``()``.
        shared: what all leaves share, a pytree of small tensors, or ``()``.
    """

    leaves: PyTree
    shared: PyTree


@dataclass(frozen=True)
class _Declared(GradientTransformation):
    """What leaf and tree transforms have in common: hyperparameters, checks, the update count."""

    requires_params: ClassVar[bool] = False
    needs_grad: ClassVar[bool] = False
    accepts: ClassVar[tuple[type, ...]] = (Tensor,)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # Set before the dataclass decorator runs, so that it keeps this short form.
        cls.__repr__ = _short_repr  # type: ignore[assignment, method-assign]

    def __post_init__(self) -> None:
        hyper_.validate(self, self.name)

    def init(self, params: PyTree) -> PyTree:
        leaves, spec = tree.flatten(params)
        names = tree.names(spec)
        for name, leaf in zip(names, leaves, strict=True):
            self._check_leaf(name, leaf, "parameter")
        state = self._init(leaves, names, spec)
        if not hyper_.is_scheduled(self):
            return state
        return ScheduledState(new_count(leaves), state)

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        if params is None and self.requires_params:
            raise ValueError(
                f"{self.name}: needs the parameters; call update(updates, state, params)"
            )
        call = self._call(updates, params, extra)
        if not hyper_.is_scheduled(self):
            return self._update(call, state, hyper_.values_at(self, None))
        if not isinstance(state, ScheduledState):
            raise TreeMismatchError(
                f"{self.name}: has a scheduled hyperparameter, but its state was made without one"
            )
        new_updates, new = self._update(call, state.state, hyper_.values_at(self, state.step))
        return new_updates, ScheduledState(state.step + 1, new)

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> PyTree:
        raise NotImplementedError

    def _update(self, call: _Call, state: PyTree, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
        raise NotImplementedError

    def _call(self, updates: PyTree, params: PyTree, extra: Mapping[str, Any]) -> _Call:
        leaves, spec = tree.flatten(updates)
        names = tree.names(spec)
        absent = [None] * len(leaves)
        ps = absent if params is None else tree.flatten_like(self.name, spec, params, "parameter")
        gs: list[Any] = absent
        if self.needs_grad:
            if "grads" not in extra:
                raise ValueError(
                    f"{self.name}: needs the gradients; use it inside gx.chain, "
                    "or pass grads= to update"
                )
            gs = tree.flatten_like(self.name, spec, extra["grads"], "gradient")
        for name, u, p in zip(names, leaves, ps, strict=True):
            self._check_leaf(name, u, "update")
            if u is not None and p is not None and tuple(u.shape) != tuple(p.shape):
                raise shape_mismatch(self.name, name, "update", u.shape, "parameter", p.shape)
        us = [_widen(u) for u in leaves]
        overrides = self._overrides(extra.get("hyper"), spec)
        return _Call(us, ps, gs, names, spec, overrides, extra.get("reduce", LOCAL))

    def _overrides(self, hyper: Mapping[str, Any] | None, spec: Any) -> dict[str, list[Any]]:
        """Overridden values per leaf, in leaf order."""
        out = {}
        for name in hyper_.dynamic_fields(self) if hyper else ():
            if name not in hyper:  # type: ignore[operator]
                continue
            value = hyper[name]  # type: ignore[index]
            if isinstance(value, (int, float, Tensor)):
                values = [value] * spec.num_leaves
            else:
                values = tree.flatten_like(self.name, spec, value, f"hyper[{name!r}]")
            for v in dict.fromkeys(values):
                if v is not None:
                    hyper_.check_value(self.name, name, v, hyper_.interval_of(self, name))
            out[name] = values
        return out

    def _check_leaf(self, name: str, leaf: Any, what: str) -> None:
        if leaf is None:
            return
        if isinstance(leaf, STRUCTURED):
            if not isinstance(leaf, self.accepts):
                raise UnsupportedLeafError(
                    f"{self.name}: leaf {name!r}: the update is a {type(leaf).__name__}, "
                    "which this transform does not take; put gx.densify() before it"
                )
            return
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"{self.name}: leaf {name!r}: the {what} must be a tensor, "
                f"got {type(leaf).__name__}"
            )
        if leaf.layout != torch.strided:
            raise UnsupportedLeafError(
                f"{self.name}: leaf {name!r}: the {what} has layout {leaf.layout}; sparse "
                "tensors are not supported, use dense gradients"
            )
        if leaf.is_complex():
            raise UnsupportedLeafError(
                f"{self.name}: leaf {name!r}: does not support complex parameters; "
                "pass torch.view_as_real of the parameter and of its gradient"
            )
        if not leaf.is_floating_point():
            raise UnsupportedLeafError(
                f"{self.name}: leaf {name!r}: the {what} has dtype {leaf.dtype}; "
                "only floating-point leaves can be optimized, use None or gx.masked for others"
            )


def _short_repr(tx: _Declared) -> str:
    """The constructor call, with the arguments that differ from their defaults."""
    values = ((f, getattr(tx, f.name)) for f in dataclasses.fields(tx))
    shown = [f"{f.name}={v!r}" for f, v in values if isinstance(v, Tensor) or v != f.default]
    return f"{tx.name}({', '.join(shown)})"


@dataclass(frozen=True)
class _Call:
    """One update call, flattened: lists in leaf order."""

    updates: list[Any]
    params: list[Any]
    grads: list[Any]
    names: list[str]
    spec: Any
    overrides: dict[str, list[Any]]
    reduce: Reduce


def _widen(leaf: Any) -> Any:
    """Updates travel in at least float32, so that a chain rounds once, when it is applied."""
    if isinstance(leaf, STRUCTURED):
        return leaf.map(tree.accumulator)
    return leaf if leaf is None else tree.accumulator(leaf)


@dataclass(frozen=True)
class LeafTransform(_Declared):
    """Base class of transforms that treat every leaf by itself.

    Subclass it as a frozen dataclass, declare hyperparameters with ``dynamic`` and ``static``,
    define ``update_leaf``, and ``init_leaf`` if there is state. A state holds tensors, or ``()``
    for what is switched off, never None. Class attributes: ``requires_params`` (raise without
    them), ``needs_grad`` (``h.grad`` is the leaf's gradient), ``accepts`` (kinds of updates).

    >>> from dataclasses import dataclass
    >>> import torch, gradtx as gx
    >>> @dataclass(frozen=True)
    ... class scale_by_sqrt(gx.LeafTransform):
    ...     power: gx.Hyper = gx.dynamic(0.5, within="(0, 1]")
    ...     def update_leaf(self, u, s, p, h):
    ...         return u.sign() * u.abs() ** h.power, s
    >>> gx.chain(scale_by_sqrt(), gx.scale(-1.0)).update({"w": torch.tensor([4.0])}, {
    ...     "scale_by_sqrt": (), "scale": ()})[0]
    {'w': tensor([-2.])}
    """

    def init_leaf(self, p: Tensor, info: LeafInfo) -> Any:
        """The state of one leaf: a NamedTuple of tensors. Not defining it means no state."""
        raise NotImplementedError

    def update_leaf(self, u: Any, s: Any, p: Any, h: Values) -> tuple[Any, Any]:
        """Transform one update. ``p`` is None if the caller gave no parameters."""
        raise NotImplementedError(f"{self.name}: update_leaf is not defined")

    @property
    def is_stateful(self) -> bool:
        """Whether leaves have a state."""
        return type(self).init_leaf is not LeafTransform.init_leaf

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> PyTree:
        if not self.is_stateful:
            return ()
        return spec.unflatten(
            [
                None if p is None else self.init_leaf(p, LeafInfo.of(p, name))
                for p, name in zip(leaves, names, strict=True)
            ]
        )

    def _update(self, call: _Call, state: PyTree, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
        n = len(call.updates)
        states: list[Any] = [()] * n
        if self.is_stateful:
            states = tree.flatten_like(self.name, call.spec, state, "state")
        new_updates, new_states = list(call.updates), list(states)
        for i, u in enumerate(call.updates):
            if u is None:
                continue
            if states[i] is None:
                raise TreeMismatchError(
                    f"{self.name}: leaf {call.names[i]!r} has an update but no state; "
                    "it was None when init was called"
                )
            here = values | {name: v[i] for name, v in call.overrides.items()}
            grad = {"grad": _widen(call.grads[i])} if self.needs_grad else {}
            h = hyper_.Values(here | grad)
            p = None if call.params[i] is None else tree.accumulator(call.params[i])
            new_updates[i], new_states[i] = self.update_leaf(u, states[i], p, h)
            self._check_fixed_point(call.names[i], u, states[i], new_states[i])
        updates = call.spec.unflatten(new_updates)
        return updates, call.spec.unflatten(new_states) if self.is_stateful else state

    def _check_fixed_point(self, name: str, u: Any, old: Any, new: Any) -> None:
        """Broadcasting against a state of another shape must not pass silently."""
        if not isinstance(old, tuple) or not isinstance(new, tuple):
            return
        for field, a, b in zip(getattr(old, "_fields", ()), old, new, strict=False):
            if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape != b.shape:
                raise shape_mismatch(self.name, name, "update", u.shape, f"state {field}", a.shape)


@dataclass(frozen=True)
class TreeTransform(_Declared):
    """Base class of transforms that need all leaves at once.

    Define ``update_tree``; and ``init_tree`` if there is state. Both get lists of the leaves that
    are present. The state is a ``TreeState``: per-leaf states beside an explicit shared part.

    >>> from dataclasses import dataclass
    >>> import torch, gradtx as gx
    >>> @dataclass(frozen=True)
    ... class scale_by_total_sign(gx.TreeTransform):
    ...     def update_tree(self, us, leaves, shared, ps, h, reduce):
    ...         total = reduce.sum(sum(u.sum() for u in us))
    ...         return [u * total.sign() for u in us], leaves, shared
    >>> scale_by_total_sign().update({"w": torch.tensor([-3.0, 1.0])}, ())[0]
    {'w': tensor([ 3., -1.])}
    """

    def init_tree(self, ps: list[Tensor], infos: list[LeafInfo]) -> tuple[list[Any] | None, Any]:
        """Per-leaf states (or None) and the shared part. Not defining it means no state."""
        raise NotImplementedError

    def update_tree(
        self,
        us: list[Any],
        leaves: list[Any] | None,
        shared: Any,
        ps: list[Any],
        h: Values,
        reduce: Reduce,
    ) -> tuple[list[Any], list[Any] | None, Any]:
        """Transform all updates. Overrides in ``h`` come from the first leaf."""
        raise NotImplementedError(f"{self.name}: update_tree is not defined")

    @property
    def is_stateful(self) -> bool:
        """Whether there is a state."""
        return type(self).init_tree is not TreeTransform.init_tree

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> PyTree:
        if not self.is_stateful:
            return ()
        there = [i for i, p in enumerate(leaves) if p is not None]
        infos = [LeafInfo.of(leaves[i], names[i]) for i in there]
        per_leaf, shared = self.init_tree([leaves[i] for i in there], infos)
        if per_leaf is None:
            return TreeState((), shared)
        return TreeState(spec.unflatten(_scatter([None] * len(leaves), there, per_leaf)), shared)

    def _update(self, call: _Call, state: PyTree, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
        there = [i for i, u in enumerate(call.updates) if u is not None]
        if not there:
            return call.spec.unflatten(call.updates), state
        here = values | {name: v[there[0]] for name, v in call.overrides.items()}
        ps = [None if call.params[i] is None else tree.accumulator(call.params[i]) for i in there]
        us = [call.updates[i] for i in there]
        h = hyper_.Values(here)
        if not self.is_stateful:
            new, _, _ = self.update_tree(us, None, None, ps, h, call.reduce)
            return call.spec.unflatten(_scatter(call.updates, there, new)), state
        per_leaf = None
        if state.leaves != ():
            states = tree.flatten_like(self.name, call.spec, state.leaves, "state")
            per_leaf = [states[i] for i in there]
        new, new_leaves, shared = self.update_tree(us, per_leaf, state.shared, ps, h, call.reduce)
        updates = call.spec.unflatten(_scatter(call.updates, there, new))
        if new_leaves is None:
            return updates, TreeState((), shared)
        leaves_out = call.spec.unflatten(_scatter(states, there, new_leaves))
        return updates, TreeState(leaves_out, shared)


def _scatter(into: list[Any], where: list[int], values: list[Any]) -> list[Any]:
    out = list(into)
    for i, v in zip(where, values, strict=True):
        out[i] = v
    return out


@dataclass(frozen=True)
class transformation(GradientTransformation):
    """Make a transform from two plain functions.

    Args:
        init_fn: ``params -> state``.
        update_fn: ``(updates, state, params) -> (updates, state)``; it also receives the keyword
            arguments of ``update`` if it takes ``**extra``.
        label: name in chains and errors.

    >>> import torch, gradtx as gx
    >>> def update(updates, state, params):
    ...     return gx.tree.map(lambda x: x / 2, updates), state
    >>> halve = gx.transformation(lambda params: (), update)
    >>> halve.update({"w": torch.ones(1)}, halve.init({"w": torch.ones(1)}))[0]
    {'w': tensor([0.5000])}
    """

    init_fn: Callable[[PyTree], PyTree]
    update_fn: Callable[..., tuple[PyTree, PyTree]]
    label: str = "transformation"

    @property
    def name(self) -> str:
        return self.label

    def init(self, params: PyTree) -> PyTree:
        return self.init_fn(params)

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        return self.update_fn(updates, state, params, **(extra if self._takes_extra else {}))

    @property
    def _takes_extra(self) -> bool:
        parameters = inspect.signature(self.update_fn).parameters.values()
        return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


@dataclass(frozen=True)
class stateless(GradientTransformation):
    """Make a transform without state from one function ``(updates, params) -> updates``.

    >>> import torch, gradtx as gx
    >>> negate = gx.stateless(lambda u, p: gx.tree.map(torch.neg, u))
    >>> negate.update({"w": torch.ones(1)}, ())[0]
    {'w': tensor([-1.])}
    """

    fn: Callable[[PyTree, PyTree], PyTree]

    def init(self, params: PyTree) -> PyTree:
        return ()

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        return self.fn(updates, params), state


@dataclass(frozen=True)
class identity(GradientTransformation):
    """Leave updates as they are.

    >>> import torch, gradtx as gx
    >>> gx.identity().update({"w": torch.ones(1)}, ())
    ({'w': tensor([1.])}, ())
    """

    def init(self, params: PyTree) -> PyTree:
        return ()

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        return updates, state


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
