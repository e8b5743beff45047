"""What a schedule is, and arithmetic that serves Python numbers and tensors alike."""

from __future__ import annotations

import math
import numbers
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..core.checks import can_read
from ..core.plain import Plain

Count: TypeAlias = int | Tensor
Value: TypeAlias = Any
"""``float`` for a Python count, ``Tensor`` for a tensor count."""


class Schedule(Plain):
    """Base class: a frozen, printable, picklable function from a step count to a value.

    A Python integer gives a Python float. An integer tensor of any shape gives a tensor of that
    shape on its device, without a host sync: float64, so that a small value keeps its low bits
    (float32 on MPS, which has no float64). Values, rates and exponents may be 0-d tensors, which
    can be learned and mapped over; then every value is a tensor. Numbers of steps are integers.

    >>> import torch, gradtx as gx
    >>> schedule = gx.schedules.linear(init_value=1.0, end_value=0.0, transition_steps=4)
    >>> isinstance(schedule, gx.schedules.Schedule), schedule(1), schedule(torch.tensor([0, 2]))
    (True, 0.75, tensor([1.0000, 0.5000], dtype=torch.float64))
    """

    def __call__(self, count: Count) -> Value:
        """The value after ``count`` steps."""
        return self.value_at(floating(count))

    def value_at(self, count: Value) -> Value:
        """The value at a count that is a float or a floating-point tensor."""
        raise NotImplementedError(f"{type(self).__name__}: value_at is not defined")


def floating(count: Count) -> Value:
    """The count as a float, or as a floating-point tensor on its device."""
    if isinstance(count, Tensor):
        return count.to(torch.float32 if count.device.type == "mps" else torch.float64)
    return float(count)


def constant_like(count: Value, value: Value) -> Value:
    """The same value in the form of the count."""
    if isinstance(value, Tensor):
        return value + torch.zeros_like(count) if isinstance(count, Tensor) else value
    return torch.full_like(count, value) if isinstance(count, Tensor) else float(value)


def where(condition: Any, yes: Value, no: Value) -> Value:
    """``yes`` if the condition holds, else ``no``; elementwise for tensors.

    For a tensor condition at least one of the two must be a tensor: its dtype is the result's.
    """
    if isinstance(condition, Tensor):
        return torch.where(condition, yes, no)
    return yes if condition else no


def at_least(x: Value, low: Value) -> Value:
    """``x``, or ``low`` where that is larger."""
    if not isinstance(x, Tensor) and not isinstance(low, Tensor):
        return max(x, low)
    return where(x >= low, x, low)


def at_most(x: Value, high: Value) -> Value:
    """``x``, or ``high`` where that is smaller."""
    if not isinstance(x, Tensor) and not isinstance(high, Tensor):
        return min(x, high)
    return where(x <= high, x, high)


def clip(x: Value, low: float, high: float) -> Value:
    """``x`` limited to ``[low, high]``."""
    return x.clamp(low, high) if isinstance(x, Tensor) else min(max(x, low), high)


def cos(x: Value) -> Value:
    """The cosine."""
    return torch.cos(x) if isinstance(x, Tensor) else math.cos(x)


def floor(x: Value) -> Value:
    """The largest whole number that is not above ``x``."""
    return torch.floor(x) if isinstance(x, Tensor) else float(math.floor(x))


def check_numbers(schedule: Schedule, *names: str, above: float | None = None) -> None:
    """Raise unless the named fields are finite numbers, larger than ``above`` if it is given."""
    for name in names:
        value = getattr(schedule, name)
        if isinstance(value, Tensor):
            if value.ndim or value.dtype == torch.bool or value.is_complex():
                raise ValueError(
                    f"{_name(schedule)}: {name} must be a number or a 0-d tensor, "
                    f"got a tensor of shape {tuple(value.shape)} and {value.dtype}"
                )
            if not value.is_cpu or not can_read(value):
                continue
            value = value.item()
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or (above is not None and value <= above):
            bound = "" if above is None else f" > {above:g}"
            raise ValueError(
                f"{_name(schedule)}: {name} must be a finite number{bound}, got {value!r}"
            )


def check_steps(schedule: Schedule, *names: str, least: int) -> None:
    """Raise unless the named fields are integers of at least ``least``."""
    for name in names:
        check_integer(schedule, name, getattr(schedule, name), least)


def check_integer(schedule: Schedule, what: str, value: Any, least: int) -> None:
    """Raise unless the value is an integer of at least ``least``."""
    integral = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not integral or value < least:
        raise ValueError(f"{_name(schedule)}: {what} must be an integer >= {least}, got {value!r}")


def check_choice(schedule: Schedule, name: str, choices: tuple[str, ...]) -> None:
    """Raise unless the named field is one of some strings."""
    value = getattr(schedule, name)
    if value not in choices:
        raise ValueError(f"{_name(schedule)}: {name} must be one of {choices}, got {value!r}")


def _name(schedule: Schedule) -> str:
    return f"schedules.{type(schedule).__name__}"
