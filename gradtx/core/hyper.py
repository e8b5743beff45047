"""Declared hyperparameters: dynamic ones may change at every step, static ones fix structure.

A transform is a frozen dataclass; ``dynamic`` and ``static`` declare its fields:

    @dataclass(frozen=True)
    class trace(LeafTransform):
        decay: Hyper = dynamic(0.9, within="[0, 1)")
        nesterov: bool = static(False)

A dynamic value is a float, a 0-d tensor or a schedule (``count -> value``), and can be replaced for
one call, for the whole tree or leaf by leaf, through ``update(..., hyper={"decay": 0.5})``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

Hyper: TypeAlias = "float | Tensor | Callable[[Any], Any]"

_KIND = "gradtx.kind"
_WITHIN = "gradtx.within"
_REQUIRED: Any = dataclasses.MISSING


def dynamic(default: Any = _REQUIRED, *, within: str = "(-inf, inf)") -> Any:
    """Declare a dynamic hyperparameter with its interval, such as ``"[0, 1)"``.

    >>> import gradtx as gx
    >>> gx.scale_by_adam(b1=1.2)
    Traceback (most recent call last):
    ValueError: scale_by_adam: b1 must be in [0, 1), got 1.2
    """
    return dataclasses.field(default=default, metadata={_KIND: "dynamic", _WITHIN: within})


def static(default: Any = _REQUIRED) -> Any:
    """Declare a static hyperparameter: it fixes shapes, dtypes or structure.

    >>> import gradtx as gx
    >>> gx.trace(0.9, nesterov=True)
    trace(decay=0.9, nesterov=True)
    """
    return dataclasses.field(default=default, metadata={_KIND: "static"})


def declare(cls: type) -> Mapping[str, str]:
    """The dynamic hyperparameters of a dataclass: name -> interval."""
    fields = dataclasses.fields(cls)
    return {f.name: f.metadata[_WITHIN] for f in fields if f.metadata.get(_KIND) == "dynamic"}


def dynamic_fields(tx: Any) -> tuple[str, ...]:
    """Names of the dynamic hyperparameters of a transform."""
    return tuple(getattr(tx, "declared", ()))


def is_scheduled(tx: Any) -> bool:
    """Whether some dynamic hyperparameter is a schedule."""
    return any(callable(getattr(tx, name)) for name in dynamic_fields(tx))


def contains(interval: str, value: float) -> bool:
    """Whether ``value`` lies in an interval written like ``"[0, 1)"``.

    >>> from gradtx.core.hyper import contains
    >>> contains("[0, 1)", 0.0), contains("[0, 1)", 1.0)
    (True, False)
    """
    low, high = (float(x) for x in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below and not math.isnan(value)


def check_value(who: str, name: str, value: Any, within: str) -> None:
    """Raise unless ``value`` may stand for a dynamic hyperparameter.

    Raises:
        ValueError: a number outside the interval, or a tensor with more than one element.
        TypeError: neither a number, nor a tensor, nor a schedule.
    """
    if isinstance(value, Tensor):
        if value.ndim != 0:
            raise ValueError(
                f"{who}: {name} must be a number or a 0-d tensor, "
                f"got a tensor of shape {tuple(value.shape)}"
            )
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if not contains(within, value):
            raise ValueError(f"{who}: {name} must be in {within}, got {value}")
    elif not callable(value):
        raise TypeError(
            f"{who}: {name} must be a number, a 0-d tensor or a schedule, "
            f"got {type(value).__name__}"
        )


def validate(tx: Any, who: str) -> None:
    """Check every dynamic hyperparameter of a transform."""
    for name, within in tx.declared.items():
        check_value(who, name, getattr(tx, name), within)


def scoped(hyper: Mapping[str, Any] | None, member: str) -> Mapping[str, Any] | None:
    """The overrides as the named member of a chain sees them.

    ``"member.name"`` becomes ``"name"`` for that member and wins over a plain ``"name"``.

    >>> from gradtx.core.hyper import scoped
    >>> scoped({"b1": 0.8, "adam.b1": 0.5, "other.b1": 0.1}, "adam")
    {'b1': 0.5}
    """
    if not hyper:
        return None
    out = {k: v for k, v in hyper.items() if "." not in k}
    prefix = member + "."
    out.update({k[len(prefix) :]: v for k, v in hyper.items() if k.startswith(prefix)})
    return out or None


def values_at(tx: Any, count: Tensor | None) -> dict[str, Any]:
    """The transform's own dynamic values, schedules evaluated at ``count``."""
    out = {}
    for name in dynamic_fields(tx):
        value = getattr(tx, name)
        out[name] = value(count) if callable(value) and not isinstance(value, Tensor) else value
    return out


class Values:
    """What a leaf function receives as ``h``: hyperparameter values by attribute."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no dynamic hyperparameter is called {name!r}")


def one_minus_power(decay: float | Tensor, count: Tensor, dtype: torch.dtype) -> Tensor:
    """``1 - decay**count`` without cancellation, as a 0-d tensor of ``dtype``.

    In float32 the direct formula loses up to four digits at the first steps; ``-expm1(t log b)``
    does not.

    >>> import torch
    >>> from gradtx.core.hyper import one_minus_power
    >>> f"{one_minus_power(0.999, torch.tensor(1), torch.float32).item():.9f}"
    '0.001000000'
    """
    if isinstance(decay, Tensor):
        log = torch.log(decay.to(torch.promote_types(decay.dtype, dtype))).to(dtype)
        return -torch.expm1(count.to(dtype) * log)
    log_value = math.log(decay) if decay > 0 else -math.inf
    return -torch.expm1(count.to(dtype) * log_value)
