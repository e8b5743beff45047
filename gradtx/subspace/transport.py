"""What becomes of an inner transform's moments when their coordinates change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optree
import torch
from torch import Tensor

from ..core import tree
from ..core.tree import PyTree
from .projector import Rotation

POLICIES = ("keep", "reset", "rotate")

# State fields that a rotation knows how to carry over.
_FIRST = {"mu", "trace", "ema", "slow", "trace_1", "trace_2"}
_SECOND = {"nu", "nu_max"}


def map_leaf_states(fn: Callable[[int, Any], Any], state: PyTree, spec: Any) -> PyTree:
    """Apply ``fn(i, state of leaf i)`` wherever a state has the parameters' structure."""

    def like_params(node: Any) -> bool:
        return tree.matches(spec, node)

    def visit(node: Any) -> Any:
        if not like_params(node):
            return node
        return spec.unflatten([fn(i, s) for i, s in enumerate(spec.flatten_up_to(node))])

    return optree.tree_map(
        visit, state, is_leaf=like_params, none_is_leaf=True, namespace=tree.NAMESPACE
    )


def map_fields(fn: Callable[[str, Any], Any], node: Any, name: str = "") -> Any:
    """Apply ``fn(field, tensor)`` to the tensors of one leaf's state."""
    if isinstance(node, Tensor):
        return fn(name, node)
    inside = tree.children(node)
    if not inside:
        return node
    return tree.rebuild(node, [map_fields(fn, child, key) for key, child in inside])


def check_rotation(who: str, leaf: str, state: Any, shape: tuple[int, ...]) -> None:
    """Raise unless every tensor of a leaf's state can be rotated or has no coordinates.

    Raises:
        ValueError: names the leaf and the field.
    """

    def check(field: str, x: Tensor) -> Tensor:
        moment = field in _FIRST | _SECOND and tuple(x.shape) == tuple(shape)
        if x.ndim and x.numel() > 1 and not moment:
            raise ValueError(
                f"{who}: on_refresh='rotate' does not know how to carry the state {field!r} of "
                f"leaf {leaf!r} over; use 'keep' or 'reset'"
            )
        return x

    map_fields(check, state)


def rotated(state: Any, rotation: Rotation, moved: Tensor) -> Any:
    """A leaf's state in new coordinates where they have ``moved``."""

    def turn(field: str, x: Tensor) -> Tensor:
        if x.ndim != 2 or field not in _FIRST | _SECOND:
            return x
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        new = rotation.first(wide) if field in _FIRST else rotation.second(wide)
        return torch.where(moved, new.to(x.dtype), x)

    return map_fields(turn, state)


def reset(state: Any, initial: Any, moved: Tensor) -> Any:
    """A leaf's state as it was at first where coordinates have moved; counters go on."""
    now, spec = tree.flatten(state)
    start = tree.flatten(initial)[0]
    return spec.unflatten(
        [
            x if x.ndim == 0 and not x.is_floating_point() else torch.where(moved, s.to(x.dtype), x)
            for x, s in zip(now, start, strict=True)
        ]
    )
