"""Schedules given by boundaries: jumps and interpolation between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import TypeAlias

from torch import Tensor

from ..core.plain import plain
from .basic import half_cosine
from .schedule import (
    Schedule,
    Value,
    at_least,
    check_choice,
    check_integer,
    check_numbers,
    constant_like,
    where,
)

Boundaries: TypeAlias = "Mapping[int, float] | Iterable[tuple[int, float]]"


@dataclass(frozen=True)
class piecewise_constant(Schedule):
    """A value multiplied by a factor at each of some steps.

    Args:
        init_value: value before the first boundary.
        boundaries_and_scales: ``{step: factor}``; the factor applies from that step on. Kept as a
            sorted tuple of pairs, which may be given as well.

    Raises:
        ValueError: a boundary that is not an integer >= 0, or a negative factor.

    >>> import gradtx as gx
    >>> schedule = gx.schedules.piecewise_constant(1.0, {2: 0.5, 4: 0.5})
    >>> [schedule(t) for t in range(6)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """

    init_value: float
    boundaries_and_scales: Boundaries = ()

    def __post_init__(self) -> None:
        check_numbers(self, "init_value")
        _freeze_boundaries(self)

    def value_at(self, count: Value) -> Value:
        value = constant_like(count, self.init_value)
        for boundary, scale in _pairs(self.boundaries_and_scales):
            value = where(count >= boundary, value * scale, value)
        return value


@dataclass(frozen=True)
class piecewise_interpolate(Schedule):
    """A curve through values that are multiplied by a factor at each of some steps.

    At step 0 the value is ``init_value``, at each boundary the product of ``init_value`` and the
    factors so far; between two of these points it is interpolated, after the last it is constant.

    Args:
        interpolate_type: "linear" or "cosine" (half a wave between two points).
        init_value: value at step 0.
        boundaries_and_scales: ``{step: factor}``, or pairs.

    Raises:
        ValueError: an unknown type, a boundary that is not an integer >= 0, or a negative factor.

    >>> import gradtx as gx
    >>> schedule = gx.schedules.piecewise_interpolate("linear", 1.0, {2: 2.0, 4: 0.5})
    >>> [schedule(t) for t in range(6)]
    [1.0, 1.5, 2.0, 1.5, 1.0, 1.0]
    """

    interpolate_type: str
    init_value: float
    boundaries_and_scales: Boundaries = ()

    def __post_init__(self) -> None:
        check_choice(self, "interpolate_type", ("linear", "cosine"))
        check_numbers(self, "init_value")
        _freeze_boundaries(self)

    def value_at(self, count: Value) -> Value:
        corners, value = [(0, self.init_value)], self.init_value
        for boundary, scale in _pairs(self.boundaries_and_scales):
            value = value * scale
            corners.append((boundary, value))
        return interpolate(count, corners, self.interpolate_type)


def interpolate(count: Value, corners: Sequence[tuple[int, float]], kind: str) -> Value:
    """A curve through ``(step, value)`` corners, constant before the first and after the last."""
    value = constant_like(count, corners[0][1])
    for (start, now), (end, then) in pairwise(corners):
        x = (count - start) / at_least(end - start, 1)
        left = half_cosine(x) if kind == "cosine" else 1 - x
        value = where(count >= start, then + (now - then) * left, value)
    end, last = corners[-1]
    return where(count >= end, constant_like(count, last), value)


def _pairs(boundaries: Boundaries) -> tuple[tuple[int, float], ...]:
    pairs = boundaries.items() if isinstance(boundaries, Mapping) else boundaries
    return tuple(sorted(((plain(b), plain(s)) for b, s in pairs), key=itemgetter(0)))


def _freeze_boundaries(schedule: piecewise_constant | piecewise_interpolate) -> None:
    """Check the boundaries and keep them as a sorted tuple, which can be hashed and compared."""
    try:
        pairs = tuple(
            (boundary, scale) for boundary, scale in _pairs(schedule.boundaries_and_scales)
        )
    except (TypeError, ValueError):
        raise TypeError(
            f"schedules.{type(schedule).__name__}: boundaries_and_scales must be {{step: factor}} "
            f"or pairs, got {schedule.boundaries_and_scales!r}"
        ) from None
    for boundary, scale in pairs:
        check_integer(schedule, "a boundary", boundary, 0)
        if isinstance(scale, Tensor) and scale.ndim == 0:
            continue
        if not isinstance(scale, (int, float)) or not scale >= 0:
            raise ValueError(
                f"schedules.{type(schedule).__name__}: the factor at step {boundary} "
                f"must be >= 0, got {scale!r}"
            )
    object.__setattr__(schedule, "boundaries_and_scales", pairs)
