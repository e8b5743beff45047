"""Static fields of options: what they must be is declared, and checked when a value is made."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter

KIND = "gradtx.kind"
_CHECKS = "gradtx.checks"
_REQUIRED: Any = dataclasses.MISSING
Check: TypeAlias = Callable[[str, str, Any], None]
_LAST_STEP = 2**31 - 1


def static(
    default: Any = _REQUIRED,
    *,
    choices: Sequence[Any] | None = None,
    at_least: int | None = None,
    within: str | None = None,
    optional: bool = False,
    steps: bool = False,
    check: Check | None = None,
) -> Any:
    """Declare a static hyperparameter: it fixes shapes, dtypes or structure.

    What it must be is checked when the dataclass is made, before its ``__post_init__``; that it is
    what its annotation says, ``Literal`` included, after it. Other options that are no transforms
    declare their fields in the same way.

    Args:
        default: its value where none is given.
        choices: all values that it may have.
        at_least: the smallest integer that is taken.
        within: the interval of a number, such as ``"[0, 1)"``; anything else is left to the
            annotation.
        optional: whether ``at_least`` lets None pass, as it does where that is the default.
        steps: it is a number of steps, which no integer is that counters do not reach.
        check: called with the transform's name, the field's and the value; raises what is wrong.

    >>> import gradtx as gx
    >>> gx.trace(0.9, nesterov=True)
    trace(decay=0.9, nesterov=True)
    >>> gx.scale_by_adam(amsgrad="row")
    Traceback (most recent call last):
    ValueError: scale_by_adam: amsgrad must be None, 'raw' or 'corrected', got 'row'
    """
    checks: list[Check] = []
    if choices is not None:
        checks.append(functools.partial(_check_choice, tuple(choices)))
    if at_least is not None:
        checks.append(functools.partial(_check_least, at_least, optional or default is None))
    if steps:
        checks.append(check_steps)
    if within is not None:
        checks.append(functools.partial(_check_interval, within))
    if check is not None:
        checks.append(check)
    return dataclasses.field(default=default, metadata={KIND: "static", _CHECKS: tuple(checks)})


def check_static(options: Any, who: str) -> None:
    """Raise unless the static fields of a dataclass instance are what they are declared to be."""
    for name, checks in _checks_of(type(options)):  # type: ignore[arg-type]
        for check in checks:
            check(who, name, getattr(options, name))


def contains(interval: str, value: float) -> bool:
    """Whether ``value`` lies in an interval written like ``"[0, 1)"``.

    >>> from gradtx.core.fields import contains
    >>> contains("[0, 1)", 0.0), contains("[0, 1)", 1.0)
    (True, False)
    """
    low, high = (float(x) for x in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below  # a NaN is neither


def is_readable(x: Tensor) -> bool:
    """Whether the value of a tensor is there: in host memory, and nothing is being traced."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, Parameter)
        and x.device.type == "cpu"
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not torch._C._len_torch_dispatch_stack()
    )


def check_steps(who: str, name: str, value: Any) -> None:
    """Raise ValueError for an integer that no count of steps reaches."""
    if isinstance(value, int) and value > _LAST_STEP:
        raise ValueError(f"{who}: {name} must be at most {_LAST_STEP} steps, got {value}")


def check_floating(who: str, name: str, value: Any) -> None:
    """Raise ValueError for a dtype that is not floating."""
    if value is not None and not getattr(value, "is_floating_point", True):
        raise ValueError(f"{who}: {name} must be floating, got {value}")


@functools.cache
def _checks_of(cls: Any) -> tuple[tuple[str, tuple[Check, ...]], ...]:
    """The fields of a class that say what they must be."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return tuple((f.name, f.metadata[_CHECKS]) for f in fields if f.metadata.get(_CHECKS))


def _check_choice(choices: tuple[Any, ...], who: str, name: str, value: Any) -> None:
    if not any(value is x or (type(value) is type(x) and value == x) for x in choices):
        *some, last = map(repr, choices)
        words = f"{', '.join(some)} or {last}" if some else last
        raise ValueError(f"{who}: {name} must be {words}, got {value!r}")


def _check_least(least: int, or_none: bool, who: str, name: str, value: Any) -> None:
    if value is None and or_none:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        words = f"an integer >= {least}{' or None' if or_none else ''}"
        raise ValueError(f"{who}: {name} must be {words}, got {value!r}")


def _check_interval(within: str, who: str, name: str, value: Any) -> None:
    if isinstance(value, Tensor) and value.ndim == 0 and is_readable(value):
        value = value.detach().item()
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and not contains(within, value):
        raise ValueError(f"{who}: {name} must be in {within}, got {value}")
