"""One cycle up and down, and repeated cycles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .join import follow
from .piecewise import interpolate
from .schedule import Count, Schedule, Value, check_numbers, check_steps
from .warmup import warmup_cosine_decay


@dataclass(frozen=True)
class linear_onecycle(Schedule):
    """Up, down to where it began, and further down, in straight lines.

    The corners are peak / div_factor at step 0, peak at pct_start * transition_steps,
    peak / div_factor at pct_final * transition_steps (both rounded down) and
    peak / (div_factor * final_div_factor) at transition_steps.

    Args:
        transition_steps: length of the cycle in steps, >= 1.
        peak_value: the largest value.
        pct_start: fraction of the steps at which the peak lies, in [0, 1].
        pct_final: fraction of the steps at which the initial value is reached again.
        div_factor: peak divided by initial value, > 0.
        final_div_factor: initial divided by final value, > 0.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 1708.07120.

    >>> import gradtx as gx
    >>> schedule = gx.schedules.linear_onecycle(10, 1.0, 0.4, 0.8, 4.0, 2.0)
    >>> [schedule(t) for t in (0, 4, 8, 10)]
    [0.25, 1.0, 0.25, 0.125]
    """

    transition_steps: int
    peak_value: float
    pct_start: float = 0.3
    pct_final: float = 0.85
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        _check_onecycle(self)
        check_numbers(self, "pct_final")
        if not _in_order(self.pct_start, self.pct_final, 1):
            raise ValueError(
                "schedules.linear_onecycle: pct_final must be in [pct_start, 1], "
                f"got {self.pct_final} with pct_start {self.pct_start}"
            )

    def value_at(self, count: Value) -> Value:
        low = self.peak_value / self.div_factor
        corners = (
            (0, low),
            (_whole(self.pct_start * self.transition_steps), self.peak_value),
            (_whole(self.pct_final * self.transition_steps), low),
            (self.transition_steps, low / self.final_div_factor),
        )
        return interpolate(count, corners, "linear")


@dataclass(frozen=True)
class cosine_onecycle(Schedule):
    """Up and down along half cosine waves.

    The corners are peak / div_factor at step 0, peak at pct_start * transition_steps (rounded
    down) and peak / (div_factor * final_div_factor) at transition_steps.

    Args:
        transition_steps: length of the cycle in steps, >= 1.
        peak_value: the largest value.
        pct_start: fraction of the steps at which the peak lies, in [0, 1].
        div_factor: peak divided by initial value, > 0.
        final_div_factor: initial divided by final value, > 0.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 1708.07120.

    >>> import gradtx as gx
    >>> schedule = gx.schedules.cosine_onecycle(10, 1.0, 0.4, 4.0, 2.0)
    >>> [schedule(t) for t in (0, 2, 4, 10)]
    [0.25, 0.625, 1.0, 0.125]
    """

    transition_steps: int
    peak_value: float
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        _check_onecycle(self)

    def value_at(self, count: Value) -> Value:
        low = self.peak_value / self.div_factor
        corners = (
            (0, low),
            (_whole(self.pct_start * self.transition_steps), self.peak_value),
            (self.transition_steps, low / self.final_div_factor),
        )
        return interpolate(count, corners, "cosine")


def _check_onecycle(schedule: linear_onecycle | cosine_onecycle) -> None:
    check_steps(schedule, "transition_steps", least=1)
    check_numbers(schedule, "peak_value", "pct_start")
    check_numbers(schedule, "div_factor", "final_div_factor", above=0)
    if not _in_order(0, schedule.pct_start, 1):
        raise ValueError(
            f"schedules.{type(schedule).__name__}: pct_start must be in [0, 1], "
            f"got {schedule.pct_start}"
        )


def _in_order(*values: Value) -> bool:
    """Whether values do not decrease, as far as they are numbers."""
    numbers = [x for x in values if not isinstance(x, Tensor)]
    return numbers == sorted(numbers)


def _whole(x: Value) -> Value:
    """A number of steps, rounded down."""
    return torch.floor(x) if isinstance(x, Tensor) else int(x)


@dataclass(frozen=True)
class sgdr(Schedule):
    """Warm restarts: cosine cycles one after the other.

    Args:
        cosine_kwargs: one dict of ``warmup_cosine_decay`` arguments, or one such schedule, for
            every cycle; a cycle lasts ``decay_steps`` steps, the last one goes on. Kept as a tuple
            of schedules.

    Raises:
        ValueError: no cycle, or a value outside its range.

    Source: arXiv 1608.03983.

    >>> import gradtx as gx
    >>> cycle = dict(init_value=0.0, peak_value=1.0, warmup_steps=1, decay_steps=3)
    >>> schedule = gx.schedules.sgdr([cycle, cycle])
    >>> [round(schedule(t), 3) for t in range(7)]
    [0.0, 1.0, 0.5, 0.0, 1.0, 0.5, 0.0]
    """

    cosine_kwargs: Iterable[Mapping[str, Any] | warmup_cosine_decay]

    def __post_init__(self) -> None:
        object.__setattr__(self, "cosine_kwargs", self._cycles())
        if not self.cosine_kwargs:
            raise ValueError("schedules.sgdr: needs at least one cycle")

    def _cycles(self) -> tuple[warmup_cosine_decay, ...]:
        return tuple(
            c if isinstance(c, warmup_cosine_decay) else warmup_cosine_decay(**c)
            for c in self.cosine_kwargs
        )

    def __call__(self, count: Count) -> Value:
        cycles = self._cycles()
        ends = tuple(accumulate(c.decay_steps for c in cycles))
        return follow(count, cycles, ends[:-1])
