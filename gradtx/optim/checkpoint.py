"""What belongs into a state dict, and what of one must fit before anything is changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import chain as concat
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..codecs import ENCODINGS
from ..core.dicts import kind
from ..core.tree import PyTree, children
from .given import check_parts
from .leaves import Leaves, Nested, map_tensors, merge_into, to_nested
from .saved_options import from_saved
from .torch_names import from_torch, own_state
from .wrappers import lacks_state


def read(
    optimizer: Any, state_dict: Mapping[str, Any]
) -> tuple[dict[Any, Any], list[dict[str, Any]]]:
    """States by parameter and groups from a state dict; nothing is changed.

    Raises:
        ValueError: see ``Optimizer.load_state_dict``.
    """
    check_parts(type(optimizer).__name__, state_dict)
    state_dict, is_torchs = from_torch(optimizer, state_dict)
    who, saved_groups = type(optimizer).__name__, copy.deepcopy(state_dict["param_groups"])
    check_groups(optimizer.param_groups, saved_groups)
    both = zip(optimizer.param_groups, saved_groups, strict=True)
    saved_groups = [from_saved(who, i, then, now) for i, (now, then) in enumerate(both)]
    if state_dict.get("gradtx") is not None:
        both = zip(optimizer.param_groups, saved_groups, strict=True)
        have = [optimizer._member_names({**now, **saved}) for now, saved in both]
        check_members(who, have, state_dict["gradtx"]["chain"])
    ids = concat.from_iterable(g["params"] for g in saved_groups)
    params = concat.from_iterable(g["params"] for g in optimizer.param_groups)
    by_id = dict(zip(ids, params, strict=True))
    groups = [
        {**now, **saved, "params": now["params"]}
        for now, saved in zip(optimizer.param_groups, saved_groups, strict=True)
    ]
    for group in groups:
        optimizer._check_options(group)
    state: dict[Any, Any] = {}
    joins = optimizer._skeletons.joins
    as_one = {p for g in groups if joins(optimizer.transform_of(g)) for p in g["params"]}
    copies: dict[Any, Tensor] = {}
    for key, value in state_dict["state"].items():
        p = by_id.get(key)
        state[key if p is None else p] = (
            copy.deepcopy(value) if p is None else onto(p, value, copies if p in as_one else {})
        )
    names = optimizer._names()
    for group in groups:
        tx = optimizer.transform_of(group)
        for p in group["params"]:
            if is_torchs and state.get(p):
                wanted = to_nested(optimizer._skeletons.of(tx, p, names[p])[0], names[p])
                state[p] = own_state(optimizer, p, wanted, state[p])
            if state.get(p):
                optimizer._skeletons.check(who, tx, p, names[p], state[p])
    check_joined(optimizer, groups, names, state)
    return state, groups


def complete(optimizer: Any) -> None:
    """Make the states that a state dict has and the optimizer lacks.

    Among several processes those of all trained parameters; in one what all share, for those that
    keep nothing of their own and have made no step.
    """
    if lacks_state(optimizer):
        optimizer.init_state()
        return
    names, state = optimizer._names(), optimizer.state
    for tx, groups in optimizer._buckets() if state else ():
        held: Nested = next((state[p] for p in groups if state.get(p)), {})
        for p in groups:
            if p.requires_grad and p not in state:
                nested = optimizer._skeletons.without_own(tx, p, names[p], held)
                if nested is not None:
                    state[p] = nested


def check_joined(
    optimizer: Any,
    groups: Sequence[Mapping[str, Any]],
    names: Mapping[Tensor, str],
    state: Mapping[Any, Any],
) -> None:
    """Raise unless what a chain keeps of all its parameters together fits them; it becomes one.

    Raises:
        ValueError: names the tensor, and both shapes and dtypes.
    """
    chains: dict[Any, list[Tensor]] = {}
    for group in groups:
        chains.setdefault(optimizer.transform_of(group), []).extend(group["params"])
    for tx, params in chains.items():
        held = [p for p in params if state.get(p)]
        if held and optimizer._skeletons.joins(tx):
            who = type(optimizer).__name__
            optimizer._skeletons.check_joined(who, tx, held, names, state[held[0]], loading=True)
            shared = optimizer._skeletons.shared(tx, held[0], names[held[0]], state[held[0]])
            for p in held[1:]:
                merge_into(state[p], shared, in_place=False)


def check_groups(now: Sequence[dict[str, Any]], saved: Sequence[dict[str, Any]]) -> None:
    """Raise unless saved groups have the number and sizes of the present ones.

    Raises:
        ValueError: they do not.
    """
    if len(saved) != len(now):
        raise ValueError("loaded state dict has a different number of parameter groups")
    for group, then in zip(now, saved, strict=True):
        if len(group["params"]) != len(then["params"]):
            raise ValueError(
                "loaded state dict contains a parameter group "
                "that doesn't match the size of optimizer's group"
            )


def check_members(who: str, have: Sequence[list[str]], saved: Sequence[Sequence[str]]) -> None:
    """Raise unless every group was saved with the chain it has.

    Args:
        who: name for the message.
        have: names of the chain's members for every group as it was saved.
        saved: the names that were saved.

    Raises:
        ValueError: names the members.
    """
    for i, (members, then) in enumerate(zip(have, saved, strict=True)):
        if members != list(then):
            raise ValueError(
                f"{who}: the state dict is of another chain: group {i} was saved with members "
                f"{list(then)}, this optimizer has {members}"
            )


class Wanted(NamedTuple):
    """What a tensor of a parameter's state must be.

    Attributes:
        path: where it stands in nested dicts.
        shape, dtype: its own.
        encoded: whether it is part of an encoded moment, whose dtype its codec fixes.
    """

    path: tuple[str, ...]
    shape: torch.Size
    dtype: torch.dtype
    encoded: bool


def wanted(
    skeleton: PyTree,
    name: str | None,
    path: tuple[str, ...] = (),
    encoded: bool = False,
    own: bool = False,
) -> list[Wanted]:
    """What the tensors of one parameter's state must be, from a state of that structure.

    With ``own`` without what all parameters share, with ``name=None`` that alone.
    """
    if isinstance(skeleton, Leaves):
        return [] if name is None else wanted(skeleton[name], name, path)
    if own and not isinstance(skeleton, Tensor):
        below = children(skeleton) or ()
        return [w for key, child in below for w in wanted(child, name, (*path, key), own=True)]
    if own:
        return []
    if isinstance(skeleton, Tensor):
        return [Wanted(path, skeleton.shape, skeleton.dtype, encoded)]
    encoded = encoded or isinstance(skeleton, ENCODINGS)
    below = children(skeleton) or ()
    return [w for key, child in below for w in wanted(child, name, (*path, key), encoded)]


def check_tensors(
    who: str,
    name: str | None,
    tensors: Sequence[Wanted],
    stored: Any,
    loading: bool = False,
) -> None:
    """Raise unless the tensors of a parameter's state have the shapes and kinds that it needs.

    With ``name=None`` it is the part that all parameters share. Floating-point tensors may have
    another floating-point dtype, as parameters may be converted; when they are loaded, those of
    codecs may not.

    Raises:
        ValueError: names the parameter, the tensor, and both shapes and dtypes.
    """
    for want in tensors:
        got = stored
        for key in want.path:
            got = got.get(key) if isinstance(got, dict) else None
        if got is None:  # members that were not there get a state
            continue
        fits = isinstance(got, Tensor) and got.shape == want.shape
        if fits and got.dtype != want.dtype:
            free = got.is_floating_point() and want.dtype.is_floating_point
            fits = free and not (loading and want.encoded)
        if not fits:
            whose = "all parameters" if name is None else f"parameter {name!r}"
            raise ValueError(
                f"{who}: the state of {whose} does not fit{' its codec' if want.encoded else ''}: "
                f"{'.'.join(want.path)} is {kind(got)}, "
                f"needed is {want.dtype} of shape {tuple(want.shape)}"
            )


def onto(p: Tensor, nested: Any, copies: dict[Any, Tensor]) -> Any:
    """A copy of a stored state on the parameter's device, dtypes kept.

    Args:
        p: the parameter.
        nested: the state.
        copies: those that there are, by tensor and device; of one tensor there will be one.
    """

    def copied(t: Tensor) -> Tensor:
        key = id(t), p.device
        if key not in copies:
            copies[key] = t.detach().to(p.device, copy=True)
        return copies[key]

    return map_tensors(copied, nested)
