"""What a chain does to a leaf, for layouts: whether elements are updated one by one, and more."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..core.pointwise import begins_with_parameters, elementwise, reads_parameters
from ..core.protocol import GradientTransformation
from ..distributed.records import is_sharded
from ..fuse.frontend.specialize import choices
from .costs import cost_of
from .leaves import Leaves

Found = TypeVar("Found")


def in_place(
    tx: GradientTransformation, p: Any, name: str, sums: bool = False, rest: bool = False
) -> bool:
    """Whether a leaf's elements are treated one by one, whatever the shape of the shard.

    Args:
        tx: the chain.
        p: the leaf.
        name: its name.
        sums: whether they may also be summed over all leaves.
        rest: whether it is the end of a chain.
    """
    shapes = tuple(p.shape), part_of(p)
    return _known(
        (tx, *choices_for(tx, p, name), *shapes, p.dtype, sums, rest),
        lambda: elementwise(tx, name, *shapes, p.dtype, sums, rest) is None,
    )


def part_of(p: Any) -> tuple[int, ...]:
    """The shape of the largest shard."""
    part = list(p.shape)
    if is_sharded(p):
        for size, place in zip(p.device_mesh.mesh.shape, p.placements, strict=True):
            if not place.is_replicate() and part:
                part[place.dim] = math.ceil(part[place.dim] / size)
    return tuple(part)


def reads(tx: GradientTransformation, p: Tensor, name: str) -> bool:
    """Whether a chain needs the values of a leaf, besides those of its gradients."""
    shape = tuple(p.shape)
    return _known(
        (tx, *choices_for(tx, p, name), shape, p.dtype),
        lambda: reads_parameters(tx, name, shape, p.dtype) is not None,
    )


def begins_with(tx: GradientTransformation, p: Tensor, name: str) -> bool:
    """Whether the first state of a leaf depends on its values."""
    shape = tuple(p.shape)
    return _known(
        ("begins", tx, *choices_for(tx, p, name), shape, p.dtype),
        lambda: begins_with_parameters(tx, name, shape, p.dtype) is not None,
    )


def choices_for(tx: GradientTransformation, p: Tensor, name: str) -> Sequence[Any]:
    """How partitions and masks treat a leaf."""
    leaf = Leaves({name: torch.empty(p.shape, dtype=p.dtype, device="meta")})
    return choices(tx, leaf, leaf)


def cost(tx: GradientTransformation, p: Tensor, name: str) -> int:
    """What the update of a leaf costs."""
    shape = tuple(p.shape)
    key = ("cost", tx, *choices_for(tx, p, name), shape, p.dtype)
    return _known(key, lambda: cost_of(tx, name, shape, p.dtype))


def _known(key: Any, find: Callable[[], Found]) -> Found:
    """What has been found out: leaves that a chain treats alike need not be looked at again."""
    if key not in _found:
        if len(_found) > _MOST:
            _found.clear()
        _found[key] = find()
    found: Found = _found[key]
    return found


_found: dict[Any, Any] = {}
_MOST = 4096
