"""What becomes of an inner transform's moments when their coordinates change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.leaf_states import map_fields
from ..core.roles import FIRST
from .projector import Rotation

POLICIES = ("keep", "reset", "rotate")


def check_rotation(who: str, leaf: str, state: Any, shape: tuple[int, ...]) -> None:
    """Raise unless every tensor of a leaf's state can be rotated or has no coordinates.

    Raises:
        ValueError: names the leaf and the field.
    """

    def check(field: str, role: str, x: Tensor) -> Tensor:
        moment = role and tuple(x.shape) == tuple(shape)
        if x.ndim and x.numel() > 1 and not moment:
            raise ValueError(
                f"{who}: on_refresh='rotate' does not know how to carry the state {field!r} of "
                f"leaf {leaf!r} over; use 'keep' or 'reset', or annotate it as FirstMoment or "
                "SecondMoment"
            )
        return x

    map_fields(check, state)


def rotated(state: Any, rotation: Rotation, moved: Tensor) -> Any:
    """A leaf's state in new coordinates where they have ``moved``."""

    def turn(field: str, role: str, x: Tensor) -> Tensor:
        if x.ndim != 2 or not role:
            return x
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        new = rotation.first(wide) if role == FIRST else rotation.second(wide)
        return torch.where(moved, new.to(x.dtype), x)

    return map_fields(turn, state)


def turned_moments(
    rotation: Rotation, m: Tensor, v: Tensor, c1: Tensor | float, c2: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Both moments in new coordinates, the second one through its variance around the first.

    m <- R m;  v <- c2 |(R * R) (v / c2 - (m / c1)^2) + (R m / c1)^2|.

    Args:
        rotation: R.
        m: the first moment.
        v: the second one.
        c1: what the average in m has gathered so far, 1 - b1^t.
        c2: the same of v.

    Source: arXiv 2410.16103.
    """
    turned = rotation.first(m)
    variance = v / c2 - (m / c1) ** 2
    return turned, c2 * (rotation.squared(variance) + (turned / c1) ** 2).abs()


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
