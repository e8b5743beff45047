"""The adapter's parameter tree, and its conversion to and from ``optimizer.state[p]``.

In memory a state is whatever pytree the transforms chose; in ``optimizer.state`` it is one nested
dict of tensors and numbers per parameter, which is what ``torch.save(weights_only)``, distributed
checkpoints and frameworks accept. Where a state contains a ``Leaves``, each parameter gets its own
entry; what all parameters share is repeated for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import optree
import torch
from torch import Tensor

from ..core.errors import UnsupportedLeafError
from ..core.protocol import GradientTransformation
from ..core.tree import NAMESPACE, PyTree, children, rebuild

Nested = dict[str, Any]


class Leaves(dict[str, Any]):
    """Parameters, gradients or per-leaf states by parameter name, in the order of the groups."""


def _flatten(leaves: Any) -> tuple[list[Any], tuple[str, ...], tuple[str, ...]]:
    return list(leaves.values()), tuple(leaves), tuple(leaves)


def _unflatten(keys: Any, values: Iterable[Any]) -> Any:
    return Leaves(zip(keys, values, strict=True))


optree.register_pytree_node(Leaves, _flatten, _unflatten, namespace=NAMESPACE)


def names_of(groups: Iterable[Mapping[str, Any]]) -> dict[Tensor, str]:
    """A unique name for every parameter of some groups: its own, or its position."""
    named: dict[Tensor, str] = {}
    taken: set[str] = set()
    for group in groups:
        own = group.get("param_names")
        for i, p in enumerate(group["params"]):
            if p in named:
                continue
            name = str(len(named)) if own is None else own[i]
            while name in taken:
                name = f"{name}#{len(named)}"
            named[p] = name
            taken.add(name)
    return named


def per_leaf(
    groups: Mapping[Tensor, dict[str, Any]],
    names: Mapping[Tensor, str],
    values_of: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> dict[str, Any]:
    """What groups feed to hyperparameters: one value, or one per leaf where groups differ.

    Args:
        groups: of every parameter.
        names: of the parameters.
        values_of: the values of a group by name.
    """
    out: dict[str, Leaves] = {}
    distinct = {id(group): group for group in groups.values()}
    by_group = {key: values_of(group) for key, group in distinct.items()}
    for p, group in groups.items():
        for key, value in by_group[id(group)].items():
            out.setdefault(key, Leaves())[names[p]] = value
    if len(by_group) == 1:
        return {key: next(iter(leaves.values())) for key, leaves in out.items()}
    return dict(out)


def to_nested(state: PyTree, key: str | None) -> Any:
    """The state of one parameter as nested dicts; with ``key=None`` only what is shared.

    Empty containers are left out.
    """
    if isinstance(state, Leaves):
        return {} if key is None else to_nested(state[key], key)
    inside = children(state)
    if inside is None:
        return state
    nested = {name: to_nested(child, key) for name, child in inside}
    return {name: value for name, value in nested.items() if not is_empty(value)}


def is_empty(value: Any) -> bool:
    """Whether a nested value holds nothing."""
    return value is None or (isinstance(value, dict) and not value)


def from_nested(skeletons: Mapping[str, PyTree], nested: Mapping[str, Any], shared: Any) -> PyTree:
    """The state of several parameters from their nested dicts.

    Args:
        skeletons: per parameter, a state of the wanted structure (its values do not matter).
        nested: per parameter, what ``to_nested`` gave.
        shared: the nested dict whose copy of the shared part is taken.
    """
    first = next(iter(skeletons.values()))
    if isinstance(first, Leaves):
        return Leaves({key: _fill(skeletons[key][key], value) for key, value in nested.items()})
    inside = children(first)
    if inside is None:
        return shared
    values = []
    for i, (name, _) in enumerate(inside):
        below = {key: (children(s) or [])[i][1] for key, s in skeletons.items()}
        parts = {key: _get(value, name) for key, value in nested.items()}
        values.append(from_nested(below, parts, _get(shared, name)))
    return rebuild(first, values)


def part_of(nested: Any, wanted: Nested) -> Nested:
    """The entries of nested dicts that ``wanted`` has too."""
    return {
        name: part_of(nested[name], inside) if isinstance(inside, dict) else nested[name]
        for name, inside in wanted.items()
    }


def hollow(state: PyTree) -> PyTree:
    """A state with every tensor's shape and dtype, on the meta device: no memory, no values."""
    if isinstance(state, Leaves):
        return Leaves({key: hollow(value) for key, value in state.items()})
    inside = children(state)
    if inside is None:
        if not isinstance(state, Tensor):
            return state
        return torch.empty(state.shape, dtype=state.dtype, device="meta")
    return rebuild(state, [hollow(child) for _, child in inside])


def _get(nested: Any, name: str) -> Any:
    return nested.get(name, {}) if isinstance(nested, dict) else {}


def _fill(skeleton: PyTree, nested: Any) -> PyTree:
    """Put nested values into the structure of one leaf's state."""
    inside = children(skeleton)
    if inside is None:
        return skeleton if is_empty(nested) else nested
    return rebuild(skeleton, [_fill(child, _get(nested, name)) for name, child in inside])


def map_tensors(fn: Callable[[Tensor], Tensor], nested: Any) -> Any:
    """Apply ``fn`` to every tensor of nested dicts; numbers stay."""
    if isinstance(nested, dict):
        return {k: map_tensors(fn, v) for k, v in nested.items()}
    return fn(nested) if isinstance(nested, Tensor) else nested


def map_paths(fn: Callable[[tuple[str, ...], Tensor], Any], nested: Any) -> Any:
    """Apply ``fn`` to path and value of every tensor, by name in the same order on all ranks.

    What it gives None for is left out.
    """

    def mapped(path: tuple[str, ...], x: Any) -> Any:
        if isinstance(x, dict):
            below = {name: mapped((*path, name), x[name]) for name in sorted(x)}
            return {name: value for name, value in below.items() if value is not None}
        return fn(path, x) if isinstance(x, Tensor) else x

    return mapped((), nested)


def at_path(nested: Any, path: Iterable[str]) -> Any:
    """What stands in nested dicts at a path; None if nothing does."""
    for name in path:
        nested = nested.get(name) if isinstance(nested, dict) else None
    return nested


def tensors(nested: Any) -> Iterable[Tensor]:
    """The tensors in nested dicts."""
    if isinstance(nested, dict):
        for value in nested.values():
            yield from tensors(value)
    elif isinstance(nested, Tensor):
        yield nested


def values_in(nested: Any) -> Iterator[Any]:
    """All that stands in nested dicts, or in several of them."""
    for value in nested.values() if isinstance(nested, dict) else nested:
        if isinstance(value, dict):
            yield from values_in(value)
        else:
            yield value


def storage_of(tensor: Tensor) -> int:
    """Which memory a tensor lies in (also for fake and meta tensors)."""
    return tensor.untyped_storage()._cdata


def with_own_memory(nested: Any, foreign: set[int]) -> Any:
    """Copy the tensors of one parameter's state that lie in foreign storages or share theirs.

    A pure transform may keep the very tensors it was given; the adapter then writes in place.
    """
    seen: set[int] = set()

    def own(t: Tensor) -> Tensor:
        storage = storage_of(t)
        if storage in foreign or storage in seen:
            return t.clone()
        seen.add(storage)
        return t

    return map_tensors(own, nested)


def flattened(nested: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of nested dicts with their paths."""
    if not isinstance(nested, dict):
        yield path, nested
        return
    for name, value in nested.items():
        yield from flattened(value, (*path, name))


def paths(nested: Any) -> Iterable[str]:
    """Dotted paths of the values in nested dicts."""
    return (".".join(map(str, path)) for path, _ in flattened(nested))


def merge_into(target: Nested, source: Nested, in_place: bool) -> None:
    """Write ``source`` over ``target``; ``in_place`` keeps the storage of existing tensors."""
    for name, value in source.items():
        old = target.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            merge_into(old, value, in_place)
        elif in_place and isinstance(value, Tensor) and isinstance(old, Tensor):
            old.copy_(value)
        else:
            target[name] = value


def gradient_of(
    tx: GradientTransformation, name: str, p: Tensor, group: Mapping[str, Any]
) -> Tensor | None:
    """The gradient of a parameter, turned round if its group maximizes; sparse ones are refused."""
    grad = p.grad
    if grad is not None and grad.layout != torch.strided:
        raise UnsupportedLeafError(
            f"{next(iter(tx.inner), tx.name)}: leaf {name!r}: the gradient has layout "
            f"{grad.layout}; sparse gradients are not supported, use dense gradients"
        )
    return -grad if grad is not None and group["maximize"] else grad


def commit(
    state: Any,
    groups: Mapping[Tensor, dict[str, Any]],
    active: Mapping[Tensor, dict[str, Any]],
    keys: list[str],
    params: Leaves,
    nested: Mapping[str, Nested],
    shared: Nested,
) -> None:
    """Write new parameters, and new states into ``optimizer.state``.

    Args:
        state: the optimizer's.
        groups: of all parameters of a chain.
        active: of those that have been updated.
        keys: names of these.
        params: new parameters.
        nested: new states.
        shared: the part of them that all share.
    """
    for (p, group), key in zip(active.items(), keys, strict=True):
        if params[key] is not p:
            p.copy_(params[key])
        merge_into(state[p], nested[key], in_place=group["capturable"])
    if is_empty(shared):
        return
    for p, group in groups.items():
        if p not in active and state.get(p):
            merge_into(state[p], shared, in_place=group["capturable"])
