"""A linear rise followed by a plateau or a decay."""

from __future__ import annotations

from dataclasses import dataclass

from .basic import check_decay, decayed, half_cosine
from .schedule import (
    Schedule,
    Value,
    check_choice,
    check_numbers,
    check_steps,
    clip,
    constant_like,
    where,
)


class _Warmup(Schedule):
    """A linear rise over ``warmup_steps`` steps, then whatever ``after`` says."""

    init_value: float
    peak_value: float
    warmup_steps: int

    def __post_init__(self) -> None:
        check_numbers(self, "init_value", "peak_value")
        check_steps(self, "warmup_steps", least=0)

    def after(self, count: Value) -> Value:
        """The value ``count`` steps after the rise; also called with negative counts."""
        raise NotImplementedError(f"{type(self).__name__}: after is not defined")

    def value_at(self, count: Value) -> Value:
        later = self.after(count - self.warmup_steps)
        if self.warmup_steps == 0:
            return later
        left = 1 - count / self.warmup_steps
        rise = (self.init_value - self.peak_value) * left + self.peak_value
        return where(count < self.warmup_steps, rise, later)


@dataclass(frozen=True)
class warmup_constant(_Warmup):
    """A linear rise, then constant.

    Args:
        init_value: value at step 0.
        peak_value: value from step ``warmup_steps`` on.
        warmup_steps: length of the rise in steps, >= 0; with 0 the value is always the peak.

    Raises:
        ValueError: a value outside its range.

    >>> import gradtx as gx
    >>> schedule = gx.schedules.warmup_constant(0.0, 1.0, 2)
    >>> [schedule(t) for t in range(4)]
    [0.0, 0.5, 1.0, 1.0]
    """

    init_value: float
    peak_value: float
    warmup_steps: int

    def after(self, count: Value) -> Value:
        return constant_like(count, self.peak_value)


@dataclass(frozen=True)
class warmup_cosine_decay(_Warmup):
    """A linear rise, then half a cosine wave down.

    After the rise: end + (peak - end) * c^exponent, where c = (1 + cos(pi * x)) / 2 and x runs
    from 0 at ``warmup_steps`` to 1 at ``decay_steps``.

    Args:
        init_value: value at step 0.
        peak_value: value at step ``warmup_steps``.
        warmup_steps: length of the rise in steps, >= 0.
        decay_steps: length of rise and decay together in steps, > ``warmup_steps``.
        end_value: value from step ``decay_steps`` on.
        exponent: power of the cosine factor, > 0.

    Raises:
        ValueError: a value outside its range.

    >>> import gradtx as gx
    >>> schedule = gx.schedules.warmup_cosine_decay(0.0, 1.0, warmup_steps=2, decay_steps=6)
    >>> [round(schedule(t), 3) for t in range(7)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """

    init_value: float
    peak_value: float
    warmup_steps: int
    decay_steps: int
    end_value: float = 0.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "end_value")
        check_numbers(self, "exponent", above=0)
        check_steps(self, "decay_steps", least=self.warmup_steps + 1)

    def after(self, count: Value) -> Value:
        wave = half_cosine(count / (self.decay_steps - self.warmup_steps)) ** self.exponent
        return self.end_value + (self.peak_value - self.end_value) * wave


@dataclass(frozen=True)
class warmup_exponential_decay(_Warmup):
    """A linear rise, then ``exponential_decay`` from the peak.

    Args:
        init_value: value at step 0.
        peak_value: value at step ``warmup_steps``.
        warmup_steps: length of the rise in steps, >= 0.
        transition_steps: steps in which the value changes by the factor ``decay_rate``, >= 1.
        decay_rate: the factor, > 0.
        transition_begin: steps between the end of the rise and the start of the decay, >= 0.
        staircase: jump every ``transition_steps`` instead of decaying smoothly.
        end_value: lower bound of the decay (upper bound for a rate of at least 1), or None.

    Raises:
        ValueError: a value outside its range.

    >>> import gradtx as gx
    >>> schedule = gx.schedules.warmup_exponential_decay(0.0, 8.0, 2, 1, 0.5)
    >>> [schedule(t) for t in range(5)]
    [0.0, 4.0, 8.0, 4.0, 2.0]
    """

    init_value: float
    peak_value: float
    warmup_steps: int
    transition_steps: int
    decay_rate: float
    transition_begin: int = 0
    staircase: bool = False
    end_value: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay(self)

    def after(self, count: Value) -> Value:
        return decayed(self, self.peak_value, count)


@dataclass(frozen=True)
class warmup_stable_decay(_Warmup):
    """A linear rise, a plateau, and a decay at the end (also called trapezoidal or WSD).

    The decay is peak + (end - peak) * f(x), x from 0 to 1: f(x) = x for "linear",
    (1 - cos(pi * x)) / 2 for "cosine", sqrt(x) for "sqrt".

    Args:
        init_value: value at step 0.
        peak_value: value on the plateau.
        warmup_steps: length of the rise in steps, >= 0.
        stable_steps: length of the plateau in steps, >= 0.
        decay_steps: length of the decay in steps, >= 1.
        end_value: value from step ``warmup_steps + stable_steps + decay_steps`` on.
        shape: "linear", "cosine" or "sqrt".

    Raises:
        ValueError: a value outside its range, or an unknown shape.

    Source: arXiv 2404.06395 (WSD), 2405.18392 (the shape "sqrt").

    >>> import gradtx as gx
    >>> schedule = gx.schedules.warmup_stable_decay(0.0, 1.0, 2, 2, 2)
    >>> [schedule(t) for t in range(7)]
    [0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0]
    """

    init_value: float
    peak_value: float
    warmup_steps: int
    stable_steps: int
    decay_steps: int
    end_value: float = 0.0
    shape: str = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "end_value")
        check_steps(self, "stable_steps", least=0)
        check_steps(self, "decay_steps", least=1)
        check_choice(self, "shape", ("linear", "cosine", "sqrt"))

    def after(self, count: Value) -> Value:
        x = clip((count - self.stable_steps) / self.decay_steps, 0.0, 1.0)
        if self.shape == "cosine":
            left = half_cosine(x)
        else:
            left = 1 - (x**0.5 if self.shape == "sqrt" else x)
        return self.end_value + (self.peak_value - self.end_value) * left
