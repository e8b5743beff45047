"""Schedules one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.plain import plain
from .schedule import Count, Schedule, Value, check_integer, constant_like, floating


@dataclass(frozen=True)
class join(Schedule):
    """Follow one schedule after the other; each counts from its own start.

    Args:
        schedules: the schedules, any functions ``count -> value``.
        boundaries: the steps at which the second, third, ... begins, increasing.

    Raises:
        ValueError: no schedule, a wrong number of boundaries, or boundaries that decrease.
        TypeError: a schedule is not callable.

    >>> import gradtx as gx
    >>> schedules = gx.schedules.linear(0.0, 1.0, 2), gx.schedules.constant(1.0)
    >>> schedule = gx.schedules.join(schedules, [2])
    >>> [schedule(t) for t in range(4)]
    [0.0, 0.5, 1.0, 1.0]
    """

    schedules: Sequence[Callable[[Any], Any]]
    boundaries: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedules", tuple(self.schedules))
        object.__setattr__(self, "boundaries", tuple(map(plain, self.boundaries)))
        for schedule in self.schedules:
            if not callable(schedule):
                raise TypeError(
                    f"schedules.join: a schedule must be callable, got {type(schedule).__name__}"
                )
        if len(self.schedules) != len(self.boundaries) + 1:
            raise ValueError(
                "schedules.join: needs one boundary less than schedules, got "
                f"{len(self.boundaries)} for {len(self.schedules)} schedules"
            )
        for boundary in self.boundaries:
            check_integer(self, "boundaries", boundary, 0)
        if list(self.boundaries) != sorted(self.boundaries):
            raise ValueError(f"schedules.join: boundaries must not decrease, got {self.boundaries}")

    def __call__(self, count: Count) -> Value:
        return follow(count, self.schedules, self.boundaries)


def follow(
    count: Count, schedules: Sequence[Callable[[Any], Any]], boundaries: Sequence[int]
) -> Value:
    """The value of the schedule whose turn it is, counted from its own start."""
    if not isinstance(count, Tensor):
        i = sum(count >= boundary for boundary in boundaries)
        return schedules[i](count - (0, *boundaries)[i])
    value = schedules[0](count)
    if not isinstance(value, Tensor):  # a plain function may ignore its count
        value = constant_like(floating(count), value)
    for boundary, schedule in zip(boundaries, schedules[1:], strict=True):
        value = torch.where(count < boundary, value, schedule(count - boundary))
    return value
