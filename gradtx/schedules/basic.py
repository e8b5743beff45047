"""One formula: constant, polynomial, exponential and cosine schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .schedule import (
    Schedule,
    Value,
    at_least,
    at_most,
    check_numbers,
    check_steps,
    clip,
    constant_like,
    cos,
    floor,
    where,
)


@dataclass(frozen=True)
class constant(Schedule):
    """The same value at every step.

    Args:
        value: the value.

    Raises:
        ValueError: it is not a finite number.

    >>> import gradtx as gx
    >>> gx.schedules.constant(0.1)(100)
    0.1
    """

    value: float

    def __post_init__(self) -> None:
        check_numbers(self, "value")

    def value_at(self, count: Value) -> Value:
        return constant_like(count, self.value)


@dataclass(frozen=True)
class polynomial(Schedule):
    """A power of the remaining fraction, from one value to another.

    end + (init - end) * (1 - x)^power with x = (count - transition_begin) / transition_steps,
    limited to [0, 1].

    Args:
        init_value: value up to step ``transition_begin``.
        end_value: value from step ``transition_begin + transition_steps``.
        power: the exponent, > 0.
        transition_steps: length of the transition in steps, >= 1.
        transition_begin: step at which it starts, >= 0.

    Raises:
        ValueError: a value outside its range.

    >>> import gradtx as gx
    >>> schedule = gx.schedules.polynomial(1.0, 0.0, power=2, transition_steps=4)
    >>> [schedule(t) for t in range(6)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    init_value: float
    end_value: float
    power: float
    transition_steps: int
    transition_begin: int = 0

    def __post_init__(self) -> None:
        check_numbers(self, "init_value", "end_value")
        check_numbers(self, "power", above=0)
        check_steps(self, "transition_steps", least=1)
        check_steps(self, "transition_begin", least=0)

    def value_at(self, count: Value) -> Value:
        left = 1 - clip((count - self.transition_begin) / self.transition_steps, 0.0, 1.0)
        return (self.init_value - self.end_value) * left**self.power + self.end_value


@dataclass(frozen=True)
class linear(Schedule):
    """A straight line from one value to another, constant before and after.

    Args:
        init_value: value up to step ``transition_begin``.
        end_value: value from step ``transition_begin + transition_steps``.
        transition_steps: length of the transition in steps, >= 1.
        transition_begin: step at which it starts, >= 0.

    Raises:
        ValueError: a value outside its range.

    >>> import gradtx as gx
    >>> schedule = gx.schedules.linear(1.0, 0.0, transition_steps=4)
    >>> [schedule(t) for t in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    init_value: float
    end_value: float
    transition_steps: int
    transition_begin: int = 0

    def __post_init__(self) -> None:
        check_numbers(self, "init_value", "end_value")
        check_steps(self, "transition_steps", least=1)
        check_steps(self, "transition_begin", least=0)

    def value_at(self, count: Value) -> Value:
        left = 1 - clip((count - self.transition_begin) / self.transition_steps, 0.0, 1.0)
        return (self.init_value - self.end_value) * left + self.end_value


@dataclass(frozen=True)
class exponential_decay(Schedule):
    """A constant factor every so many steps: ``init * decay_rate^x``.

    x = (count - transition_begin) / transition_steps, at least 0, rounded down for a staircase.

    Args:
        init_value: value up to step ``transition_begin``.
        transition_steps: steps in which the value changes by the factor ``decay_rate``, >= 1.
        decay_rate: the factor, > 0.
        transition_begin: step at which the decay starts, >= 0.
        staircase: jump every ``transition_steps`` instead of decaying smoothly.
        end_value: lower bound of the value (upper bound for a rate of at least 1), or None.

    Raises:
        ValueError: a value outside its range.

    >>> import gradtx as gx
    >>> schedule = gx.schedules.exponential_decay(8.0, 1, 0.5, end_value=1.5)
    >>> [schedule(t) for t in range(5)]
    [8.0, 4.0, 2.0, 1.5, 1.5]
    """

    init_value: float
    transition_steps: int
    decay_rate: float
    transition_begin: int = 0
    staircase: bool = False
    end_value: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "init_value")
        check_decay(self)

    def value_at(self, count: Value) -> Value:
        return decayed(self, self.init_value, count)


def check_decay(schedule: Any) -> None:
    """Check the fields that ``decayed`` reads."""
    check_numbers(schedule, "decay_rate", above=0)
    check_steps(schedule, "transition_steps", least=1)
    check_steps(schedule, "transition_begin", least=0)
    if schedule.end_value is not None:
        check_numbers(schedule, "end_value")


def decayed(schedule: Any, value: float, count: Value) -> Value:
    """Exponential decay of ``value`` with the settings of a schedule."""
    exponent = clip(count - schedule.transition_begin, 0.0, math.inf) / schedule.transition_steps
    if schedule.staircase:
        exponent = floor(exponent)
    out = value * schedule.decay_rate**exponent
    if schedule.end_value is None:
        return out
    falls = schedule.decay_rate < 1
    lower, upper = at_least(out, schedule.end_value), at_most(out, schedule.end_value)
    return where(falls, lower, upper)


@dataclass(frozen=True)
class cosine_decay(Schedule):
    """Half a cosine wave down to a fraction of the initial value.

    init * ((1 - alpha) * c^exponent + alpha), c = (1 + cos(pi * min(count / decay_steps, 1))) / 2.

    Args:
        init_value: value at step 0.
        decay_steps: length of the decay in steps, >= 1.
        alpha: final value as a fraction of ``init_value``.
        exponent: power of the cosine factor, > 0.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 1608.03983.

    >>> import gradtx as gx
    >>> schedule = gx.schedules.cosine_decay(1.0, decay_steps=4)
    >>> [round(schedule(t), 3) for t in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    init_value: float
    decay_steps: int
    alpha: float = 0.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, "init_value", "alpha")
        check_numbers(self, "exponent", above=0)
        check_steps(self, "decay_steps", least=1)

    def value_at(self, count: Value) -> Value:
        wave = half_cosine(count / self.decay_steps) ** self.exponent
        return self.init_value * ((1 - self.alpha) * wave + self.alpha)


def half_cosine(x: Value) -> Value:
    """From 1 at ``x = 0`` to 0 at ``x = 1`` along a cosine, constant outside."""
    return 0.5 * (1 + cos(math.pi * clip(x, 0.0, 1.0)))
