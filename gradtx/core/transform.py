"""Base classes of transforms: one leaf at a time, or the whole tree.

``LeafTransform`` says what happens to one leaf; the base class maps it over the tree and keeps the
state per leaf. ``TreeTransform`` sees all leaves at once and keeps what they share apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from . import tree
from .declared import Call, DeclaredTransform, like, widen
from .errors import TreeMismatchError, shape_mismatch
from .execution import Execution
from .hyper import Values
from .leaves import LeafInfo
from .protocol import GradientTransformation, declared_hyper, members
from .reduce import Reduce
from .roles import note_roles
from .tree import PyTree


class TreeState(NamedTuple):
    """State of a tree transform.

    Attributes:
        leaves: tree like the parameters with one state per leaf, or ``()``.
        shared: what all leaves share, a pytree of small tensors, or ``()``.
    """

    leaves: PyTree
    shared: PyTree


@dataclass(frozen=True, eq=False)
class LeafTransform(DeclaredTransform):
    """Base class of transforms that treat every leaf by itself.

    Subclass it as a frozen dataclass, declare hyperparameters with ``dynamic`` and ``static``,
    define ``update_leaf``, and ``init_leaf`` if there is state. A state holds tensors, or ``()``
    for what is switched off, never None. Class attributes: ``requires_params`` (raise without
    them), ``needs_grad`` (``h.grad`` is the leaf's gradient), ``needs_unit`` (``h.unit`` is the
    factor that updates carry, 1 unless a wrapper rescales them), ``needs_value`` (``h.value`` is
    the loss), ``needs_extra`` (names of further arguments of ``update`` that are trees like the
    updates, ``h.name`` is the leaf), ``takes_extra`` (as that, None where it is not given),
    ``accepts`` (kinds of updates).

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

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "precompute" in vars(cls):
            cls.execution = Execution(precomputes=True).over(cls.execution)

    def init_leaf(self, p: Tensor, info: LeafInfo) -> Any:
        """The state of one leaf: a NamedTuple of tensors. Not defining it means no state."""
        raise NotImplementedError

    def update_leaf(self, u: Any, s: Any, p: Any, h: Values) -> tuple[Any, Any]:
        """Transform one update. ``p`` is None if the caller gave no parameters."""
        raise NotImplementedError(f"{self.name}: update_leaf is not defined")

    def precompute(self, updates: list[Any], states: list[Any]) -> Mapping[str, list[Any]]:
        """What leaves compute in one go, by name: a list with a value per leaf, ``h.name`` there.

        Absent leaves are None among the updates.
        """
        return {}

    @property
    def is_stateful(self) -> bool:
        """Whether leaves have a state."""
        return type(self).init_leaf is not LeafTransform.init_leaf

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> PyTree:
        if not self.is_stateful:
            return ()
        states = [
            () if p is None else self.init_leaf(p, LeafInfo.of(p, name))
            for p, name in zip(leaves, names, strict=True)
        ]
        for state in states:
            note_roles(state)
        return spec.unflatten(states)

    def _update(self, call: Call, state: PyTree, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
        n = len(call.updates)
        states: list[Any] = [()] * n
        if self.is_stateful:
            states = tree.flatten_like(self.name, call.spec, state, "state")
        new_updates, new_states = list(call.updates), list(states)
        ready = self.precompute(call.updates, states)
        unit = {"unit": call.unit} if self.needs_unit else {}
        # Leaves for which nothing else holds than for others have one ``h``.
        same = not (call.overrides or call.wanted or ready or self.needs_grad)
        h = Values(values | unit)
        for i, u in enumerate(call.updates):
            if u is None:
                continue
            if self.is_stateful and states[i] == ():  # no parameter at init
                raise TreeMismatchError(
                    f"{self.name}: leaf {call.names[i]!r} has an update but no state; "
                    "it was None when init was called"
                )
            if not same:
                here = call.values_at(i, values) | unit
                if self.needs_grad:
                    here["grad"] = widen(call.grads[i])
                here |= {k: column[i] for k, column in (*call.wanted.items(), *ready.items())}
                h = Values(here)
            p = None if call.params[i] is None else tree.accumulator(call.params[i])
            out, new = self.update_leaf(u, states[i], p, h)
            self._check_shapes(call.names[i], u, states[i], out, new)
            new_updates[i], new_states[i] = like(out, u), _like_fields(new, states[i])
        updates = call.spec.unflatten(new_updates)
        return updates, call.spec.unflatten(new_states) if self.is_stateful else state

    def _check_shapes(self, name: str, u: Any, old: Any, out: Any, new: Any) -> None:
        """Broadcasting against a state of another shape must not pass silently."""
        if out.shape != u.shape:
            raise shape_mismatch(self.name, name, "update", u.shape, "its result", out.shape)
        if not isinstance(old, tuple) or not isinstance(new, tuple):
            return
        for field, a, b in zip(getattr(old, "_fields", ()), old, new, strict=False):
            if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape != b.shape:
                raise shape_mismatch(self.name, name, "update", u.shape, f"state {field}", a.shape)


def _like_fields(new: Any, old: Any) -> Any:
    if not isinstance(new, tuple) or not hasattr(new, "_fields"):
        return new
    return type(new)(*(like(n, o) for n, o in zip(new, old, strict=True)))


@dataclass(frozen=True, eq=False)
class TreeTransform(DeclaredTransform):
    """Base class of transforms that need all leaves at once.

    Define ``update_tree``; and ``init_tree`` if there is state. Both get lists of the leaves that
    are present. The state is a ``TreeState``: per-leaf states beside an explicit shared part.
    ``h.names`` are the leaves' names. Class attributes: ``of_leaf`` (hyperparameters of which every
    leaf may have its own value), ``needs_grad`` (``h.grads`` are the leaves' gradients),
    ``needs_value`` (``h.value`` is the loss), ``needs_extra`` (names of tree arguments of
    ``update``, ``h.name`` is a list of their leaves).

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

    execution: ClassVar[Execution] = Execution(reduces=True)
    of_leaf: ClassVar[tuple[str, ...]] = ()

    def init_tree(self, ps: list[Tensor], infos: list[LeafInfo]) -> tuple[list[Any] | None, Any]:
        """Per-leaf states (or None) and the shared part. Not defining it means no state.

        The shared part must not depend on the leaves: of several processes each has some of them,
        and what sums over all of them is for ``update_tree``, which has ``reduce``.
        """
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
        """Transform all updates."""
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
        for state in per_leaf:
            note_roles(state)
        return TreeState(spec.unflatten(_scatter([()] * len(leaves), there, per_leaf)), shared)

    def _update(self, call: Call, state: PyTree, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
        there = [i for i, u in enumerate(call.updates) if u is not None]
        if not there:
            return call.spec.unflatten(call.updates), state
        ps = [None if call.params[i] is None else tree.accumulator(call.params[i]) for i in there]
        us = [call.updates[i] for i in there]
        wanted = {name: [column[i] for i in there] for name, column in call.wanted.items()}
        wanted["names"] = [call.names[i] for i in there]
        if self.needs_value:
            wanted["value"] = wanted["value"][0]
        if self.needs_grad:
            wanted["grads"] = [widen(call.grads[i]) for i in there]
        h = Values({**call.common(self.name, there, values, self.of_leaf), **wanted})
        if not self.is_stateful:
            out, _, _ = self._update_all(us, None, None, ps, h, call.reduce)
            return self._joined(call, there, out), state
        per_leaf = None
        if state.leaves != ():
            states = tree.flatten_like(self.name, call.spec, state.leaves, "state")
            per_leaf = [states[i] for i in there]
        out, new_leaves, shared = self._update_all(us, per_leaf, state.shared, ps, h, call.reduce)
        updates = self._joined(call, there, out)
        if new_leaves is None:
            return updates, TreeState((), shared)
        leaves_out = call.spec.unflatten(_scatter(states, there, new_leaves))
        return updates, TreeState(leaves_out, shared)

    def _update_all(self, us: list[Any], *given: Any) -> tuple[list[Any], list[Any] | None, Any]:
        """``update_tree``; what torch says of leaves without entries gets their names."""
        empty = [isinstance(u, Tensor) and not u.numel() for u in us]
        if not any(empty):
            return self.update_tree(us, *given)
        try:
            return self.update_tree(us, *given)
        except (IndexError, RuntimeError) as error:
            if "reduction dim" not in str(error):
                raise
            name = given[3].names[empty.index(True)]
            raise ValueError(
                f"{self.name}: leaf {name!r} has no entries, as a process's part of a leaf may "
                f"have none, and torch reduces nothing to nothing ({error}); give it a number that "
                "changes nothing, as in u.abs().max() if u.numel() else u.new_zeros(())"
            ) from error

    def _joined(self, call: Call, there: list[int], out: list[Any]) -> PyTree:
        out = [like(new, call.updates[i]) for i, new in zip(there, out, strict=True)]
        return call.spec.unflatten(_scatter(call.updates, there, out))


def of_tree(tx: GradientTransformation) -> list[str]:
    """The dynamic hyperparameters that count for all leaves together, by ``"member.name"``."""
    by_path = dict(members(tx))
    split = {full: full.rpartition(".") for full in declared_hyper(tx)}
    return [
        full
        for full, (path, _, name) in split.items()
        if isinstance(member := by_path[path], TreeTransform) and name not in member.of_leaf
    ]


def _scatter(into: list[Any], where: list[int], values: list[Any]) -> list[Any]:
    out = list(into)
    for i, v in zip(where, values, strict=True):
        out[i] = v
    return out
