"""What leaf and tree transforms share: declared hyperparameters, checks, schedules, flattening."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

from torch import Tensor

from . import hyper as hyper_
from . import tree
from .checks import check_leaf
from .errors import TreeMismatchError, shape_mismatch
from .leaves import ANY_UPDATE, STRUCTURED, densify_leaf
from .plain import same_attributes
from .protocol import GradientTransformation
from .reduce import LOCAL, Reduce
from .state import advance, new_count
from .tree import PyTree

T = TypeVar("T", bound="DeclaredTransform")


class ScheduledState(NamedTuple):
    """State of a transform one of whose hyperparameters is a schedule.

    Attributes:
        step: int32, updates done so far, shared by all leaves.
        state: the transform's own state.
    """

    step: Tensor
    state: PyTree


@dataclass(frozen=True)
class Call:
    """One update call, flattened: lists in leaf order."""

    updates: list[Any]
    params: list[Any]
    grads: list[Any]
    names: list[str]
    spec: Any
    overrides: dict[str, list[Any]]
    reduce: Reduce
    unit: Any
    extra: Mapping[str, Any]
    wanted: Mapping[str, list[Any]]

    def values_at(self, i: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Hyperparameters for leaf ``i``."""
        return {**values, **{k: v[i] for k, v in self.overrides.items() if v[i] is not None}}

    def alike(self, keys: Mapping[int, Any], values: Mapping[str, Any]) -> list[list[int]]:
        """Leaves with the same key and the same hyperparameters, together.

        Args:
            keys: of the leaves that are asked for.
            values: the declared values.
        """
        groups: list[tuple[Any, dict[str, Any], list[int]]] = []
        for i, key in keys.items():
            own = self.values_at(i, values)
            for other, theirs, members in groups:
                if key == other and all(hyper_.same(v, theirs[name]) for name, v in own.items()):
                    members.append(i)
                    break
            else:
                groups.append((key, own, [i]))
        return [members for _, _, members in groups]

    def common(
        self, who: str, there: list[int], values: Mapping[str, Any], of_leaf: tuple[str, ...]
    ) -> dict[str, Any]:
        """Hyperparameters for all leaves together.

        Args:
            who: for the error.
            there: the leaves.
            values: the declared values.
            of_leaf: names that leaves may differ in; the first leaf's value is given.

        Raises:
            ValueError: leaves differ in another one.
        """
        first = self.values_at(there[0], values)
        for name in self.overrides.keys() - set(of_leaf):
            for i in there[1:]:
                here = self.values_at(i, values)[name]
                if hyper_.differ(first[name], here):
                    raise ValueError(
                        f"{who}: {name} must be the same for all leaves, got {first[name]} for "
                        f"{self.names[there[0]]!r} and {here} for {self.names[i]!r}"
                    )
        return first


@dataclass(frozen=True, eq=False)
class DeclaredTransform(GradientTransformation):
    """What leaf and tree transforms have in common: hyperparameters, checks, the update count."""

    requires_params: ClassVar[bool] = False
    needs_grad: ClassVar[bool] = False
    needs_unit: ClassVar[bool] = False
    needs_value: ClassVar[bool] = False
    needs_extra: ClassVar[tuple[str, ...]] = ()
    takes_extra: ClassVar[tuple[str, ...]] = ()  # as needs_extra; None where it is not given
    accepts: ClassVar[tuple[type, ...]] = (Tensor,)
    densifies: ClassVar[bool] = False  # structured updates arrive as tensors

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # Set before the dataclass decorator runs, so that it keeps this short form.
        cls.__repr__ = _short_repr  # type: ignore[assignment, method-assign]

    def __eq__(self, other: object) -> Any:
        return same_attributes(self, other)

    def __hash__(self) -> int:
        return hash(type(self))

    def init(self, params: PyTree) -> PyTree:
        leaves, spec = tree.flatten(params)
        names = tree.names(spec)
        for name, leaf in zip(names, leaves, strict=True):
            check_leaf(self.name, name, leaf, "parameter", self.accepts)
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
            return self._update(call, state, self._values_at(call, None))
        if not isinstance(state, ScheduledState):
            raise TreeMismatchError(
                f"{self.name}: has a scheduled hyperparameter, but its state was made without one"
            )
        new_updates, new = self._update(call, state.state, self._values_at(call, state.step))
        return new_updates, ScheduledState(advance(state.step), new)

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> PyTree:
        raise NotImplementedError

    def _update(self, call: Call, state: PyTree, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
        raise NotImplementedError

    def _call(self, updates: PyTree, params: PyTree, extra: Mapping[str, Any]) -> Call:
        leaves, spec = tree.flatten(updates)
        names = tree.names(spec)
        absent = [None] * len(leaves)
        ps = absent if params is None else tree.leaves_like(self.name, spec, params, "parameter")
        gs: list[Any] = absent
        if self.needs_grad:
            if "grads" not in extra:
                raise ValueError(
                    f"{self.name}: needs the gradients; use it inside gx.chain, "
                    "or pass grads= to update"
                )
            gs = tree.leaves_like(self.name, spec, extra["grads"], "gradient")
        accepts = ANY_UPDATE if self.densifies else self.accepts
        for name, u, p in zip(names, leaves, ps, strict=True):
            check_leaf(self.name, name, u, "update", accepts)
            if u is not None and p is not None and tuple(u.shape) != tuple(p.shape):
                raise shape_mismatch(self.name, name, "update", u.shape, "parameter", p.shape)
        if self.densifies:
            leaves = [densify_leaf(u) for u in leaves]
        us = [widen(u) for u in leaves]
        overrides = hyper_.overrides(self, extra.get("hyper"), spec, leaves)
        reduce, unit = extra.get("reduce", LOCAL), extra.get("unit", 1.0)
        wanted = self._wanted(extra, us, spec)
        return Call(us, ps, gs, names, spec, overrides, reduce, unit, extra, wanted)

    def _wanted(
        self, extra: Mapping[str, Any], updates: list[Any], spec: Any
    ) -> dict[str, list[Any]]:
        """The extra arguments that are declared, per leaf."""
        out: dict[str, list[Any]] = {}
        for name in (*(("value",) if self.needs_value else ()), *self.needs_extra):
            given = extra.get(name)
            if given is None:
                torch_way = "closure" if name == "value" else f"{name}=..."
                raise ValueError(
                    f"{self.name}: needs {name}; pass {name}= to update "
                    f"(a torch optimizer: step({torch_way}))"
                )
            if name != "value":
                out[name] = self._tree_like(name, given, updates, spec)
                continue
            if isinstance(given, Tensor) and given.ndim:
                raise ValueError(
                    f"{self.name}: value must be a number or a 0-d tensor, "
                    f"got a tensor of shape {tuple(given.shape)}"
                )
            value = tree.accumulator(given) if isinstance(given, Tensor) else given
            out[name] = [value] * spec.num_leaves
        for name in self.takes_extra:
            given, nothing = extra.get(name), [None] * spec.num_leaves
            out[name] = nothing if given is None else self._tree_like(name, given, updates, spec)
        return out

    def _tree_like(self, name: str, given: PyTree, updates: list[Any], spec: Any) -> list[Any]:
        """The leaves of an extra tree, one for every update.

        Raises:
            TreeMismatchError: another structure, a missing leaf, or one of another shape.
        """
        out = tree.leaves_like(self.name, spec, given, name)
        for path, u, x in zip(tree.names(spec), updates, out, strict=True):
            if u is None:
                continue
            if x is None:
                raise TreeMismatchError(f"{self.name}: leaf {path!r} has an update, but no {name}")
            if tuple(x.shape) != tuple(u.shape):
                raise shape_mismatch(self.name, path, "update", u.shape, name, x.shape)
        return [widen(x) for x in out]

    def _values_at(self, call: Call, count: Tensor | None) -> dict[str, Any]:
        """The own dynamic values at a count; those with one value an entry fit every leaf."""
        values = hyper_.values_at(self, count)
        for name, value in values.items():
            if name not in call.overrides:
                hyper_.check_entries(self.name, name, value, call.updates, call.names)
        return values


def short_repr(name: str, made: Any) -> str:
    """The constructor call of a dataclass, with the arguments that differ from their defaults."""
    values = ((f, getattr(made, f.name)) for f in dataclasses.fields(made))
    shown = [f"{f.name}={v!r}" for f, v in values if isinstance(v, Tensor) or v != f.default]
    return f"{name}({', '.join(shown)})"


def _short_repr(tx: DeclaredTransform) -> str:
    return short_repr(tx.name, tx)


def with_fields_of(tx: DeclaredTransform, kind: type[T]) -> T:
    """A transform of another class, a subclass of this one's with no more fields."""
    return kind(**{f.name: getattr(tx, f.name) for f in dataclasses.fields(tx)})


def widen(leaf: Any) -> Any:
    """Updates travel in at least float32, so that a chain rounds once, when it is applied."""
    if isinstance(leaf, STRUCTURED):
        return leaf.map(tree.accumulator)
    return leaf if leaf is None else tree.accumulator(leaf)


def like(new: Any, old: Any) -> Any:
    """A new update or state tensor in the dtype of the old one.

    Two 0-d tensors promote to the wider dtype, so a float64 hyperparameter, which every schedule
    gives, would widen a float32 scalar leaf.
    """
    if isinstance(new, STRUCTURED):
        return new.map(lambda x: x.to(old.dtype))
    if isinstance(new, Tensor) and hasattr(old, "dtype") and new.dtype != old.dtype:
        return new.to(old.dtype)
    return new
