"""Declared hyperparameters: dynamic ones may change at every step, static ones fix structure.

A transform is a frozen dataclass; ``dynamic`` and ``static`` declare its fields:

    @dataclass(frozen=True)
    class trace(LeafTransform):
        decay: Hyper = dynamic(0.9, within="[0, 1)")
        nesterov: bool = static(False)

A dynamic value is a number of any numeric type, a 0-d tensor or a schedule (``count -> value``),
and can be replaced for one call, for the whole tree or leaf by leaf, through
``update(..., hyper={"decay": 0.5})``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from . import tree
from .checks import can_read
from .errors import described
from .fields import KIND, contains, is_readable
from .fields import static as static
from .plain import plain, real
from .watch import is_watched

_DYNAMIC = "gradtx.dynamic"
Hyper: TypeAlias = Annotated[float | Tensor | Callable[[Any], Any], _DYNAMIC]

_WITHIN = "gradtx.within"
_MOMENTUM = "gradtx.momentum"
_PER_ENTRY = "gradtx.per_entry"


def dynamic(
    default: Any = dataclasses.MISSING,
    *,
    within: str = "(-inf, inf)",
    momentum: bool = False,
    per_entry: bool = False,
) -> Any:
    """Declare a dynamic hyperparameter with its interval, such as ``"[0, 1)"``.

    Args:
        default: its value where none is given.
        within: the interval of numbers that are taken.
        momentum: whether it is the decay of a momentum, which torch's schedulers cycle: as an
            option of parameter groups it is called ``momentum``.
        per_entry: whether a tensor may hold one value for every entry of a leaf.

    >>> import gradtx as gx
    >>> gx.scale_by_adam(b1=1.2)
    Traceback (most recent call last):
    ValueError: scale_by_adam: b1 must be in [0, 1), got 1.2
    """
    marks = {_MOMENTUM: momentum, _PER_ENTRY: per_entry}
    metadata = {KIND: "dynamic", _WITHIN: within, **marks}
    return dataclasses.field(default=default, metadata=metadata)


def is_dynamic(hint: Any) -> bool:
    """Whether an annotation, as ``typing.get_type_hints`` evaluates it with extras, has ``Hyper``.

    >>> from gradtx.core.hyper import Hyper, is_dynamic
    >>> is_dynamic(Hyper | None), is_dynamic(float)
    (True, False)
    """
    return _DYNAMIC in getattr(hint, "__metadata__", ()) or any(map(is_dynamic, get_args(hint)))


def declare(cls: type) -> Mapping[str, str]:
    """The dynamic hyperparameters of a dataclass: name -> interval."""
    fields = dataclasses.fields(cls)
    return {f.name: f.metadata[_WITHIN] for f in fields if f.metadata.get(KIND) == "dynamic"}


def dynamic_fields(tx: Any) -> tuple[str, ...]:
    """Names of the dynamic hyperparameters of a transform."""
    return tuple(getattr(tx, "declared", ()))


def is_momentum(tx: Any, name: str) -> bool:
    """Whether a dynamic hyperparameter is declared as the decay of a momentum."""
    return bool(type(tx).__dataclass_fields__[name].metadata[_MOMENTUM])


def is_per_entry(tx: Any, name: str) -> bool:
    """Whether a dynamic hyperparameter may have one value for every entry of a leaf."""
    return bool(type(tx).__dataclass_fields__[name].metadata[_PER_ENTRY])


def is_scheduled(tx: Any) -> bool:
    """Whether some dynamic hyperparameter is a schedule."""
    return any(callable(getattr(tx, name)) for name in dynamic_fields(tx))


def check_value(who: str, name: str, value: Any, within: str, per_entry: bool = False) -> None:
    """Raise unless ``value`` may stand for a dynamic hyperparameter.

    Raises:
        ValueError: a number outside the interval, also in a tensor that can be read without
            waiting, or a tensor with more than one element without ``per_entry``.
        TypeError: neither a number, nor a tensor, nor a schedule.
    """
    value = plain(value)
    if isinstance(value, Tensor):
        if value.ndim != 0 and not per_entry:
            raise ValueError(
                f"{who}: {name} must be a number or a 0-d tensor, "
                f"got a tensor of shape {tuple(value.shape)}"
            )
        if value.dtype == torch.bool or value.is_complex():
            raise TypeError(f"{who}: {name} must be a real number, got a tensor of {value.dtype}")
        check_tensor(who, name, value, within)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if not contains(within, value):
            # Dynamo puts no number that may change into words.
            got = "" if torch.compiler.is_compiling() else f", got {value}"
            raise ValueError(f"{who}: {name} must be in {within}{got}")
    elif not callable(value) or isinstance(value, type):
        raise TypeError(
            f"{who}: {name} must be a number, a 0-d tensor or a schedule, got {described(value)}"
        )


def check_tensor(who: str, name: str, value: Tensor, within: str) -> None:
    """Raise if an entry of a tensor is outside an interval, where that costs no waiting.

    What is to be positive may be zero in a tensor: as in a schedule, it may have fallen to it.

    Raises:
        ValueError: one is.
    """
    low, _, high = within[1:-1].partition(",")
    if within[0] == "(" and float(low) == 0:
        within = f"[0,{high}{within[-1]}"
    if not is_readable(value) or not value.numel():
        return
    ends = (value,) if value.numel() == 1 else torch.aminmax(value.detach())
    for number in (x.detach().item() for x in ends):
        if not contains(within, number):
            raise ValueError(f"{who}: {name} must be in {within}, got {number}")


def check_entries(
    who: str, name: str, value: Any, leaves: Sequence[Any], names: Sequence[str]
) -> None:
    """Raise unless a tensor with one value an entry fits every leaf that is there.

    Raises:
        ValueError: another shape, or an update that is not dense (names the leaf).
    """
    if not isinstance(value, Tensor) or value.ndim == 0:
        return
    for path, leaf in zip(names, leaves, strict=True):
        if leaf is None:
            continue
        shape = tuple(leaf.shape)
        if not isinstance(leaf, Tensor):
            raise ValueError(
                f"{who}: {name} has one value an entry, but leaf {path!r} is a "
                f"{type(leaf).__name__}; put gx.densify() before it"
            )
        if not expands(tuple(value.shape), shape):
            raise ValueError(
                f"{who}: {name} has shape {tuple(value.shape)}, leaf {path!r} has shape {shape}; "
                "give a number, or one value an entry as a tree like the parameters"
            )


def expands(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether a tensor of one shape can be expanded to another."""
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(a in (1, b) for a, b in pairs)


def validate(tx: Any, who: str) -> None:
    """Check every dynamic hyperparameter of a transform that is declared."""
    for name, within in tx.declared.items():
        check_value(who, name, getattr(tx, name), within, is_per_entry(tx, name))


def differ(a: Any, b: Any) -> bool:
    """Whether two values are known to be different: numbers, or tensors that can be read at once.

    >>> from gradtx.core.hyper import differ
    >>> differ(1.0, 2.0), differ(1.0, 1)
    (True, False)
    """
    if a is b:
        return False
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        at_once = a.is_cpu and b.is_cpu and can_read(a) and can_read(b)
        return at_once and not torch.equal(a, b)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return False
    return bool(a != b)


def same(a: Any, b: Any) -> bool:
    """Whether two values are one, without looking into tensors."""
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)


class Overrides(dict[str, Any]):
    """Overrides by name, once it is known that every name means something; see ``checked``."""


def scoped(hyper: Mapping[str, Any] | None, member: str) -> Overrides | None:
    """The overrides as the named member of a chain sees them.

    ``"member.name"`` becomes ``"name"`` for that member and wins over a plain ``"name"``.

    >>> from gradtx.core.hyper import scoped
    >>> scoped({"b1": 0.8, "adam.b1": 0.5, "other.b1": 0.1}, "adam")
    {'b1': 0.5}
    """
    if not hyper:
        return None
    out = Overrides({k: v for k, v in hyper.items() if "." not in k})
    prefix = member + "."
    out.update({k[len(prefix) :]: v for k, v in hyper.items() if k.startswith(prefix)})
    return out or None


def values_at(tx: Any, count: Tensor | None) -> dict[str, Any]:
    """The transform's own dynamic values, schedules evaluated at ``count``."""
    out = {}
    for name in dynamic_fields(tx):
        value = getattr(tx, name)
        scheduled = callable(value) and not isinstance(value, Tensor)
        out[name] = real(value(count)) if scheduled else value
    return out


def overrides(
    tx: Any, hyper: Mapping[str, Any] | None, spec: Any, leaves: Sequence[Any]
) -> dict[str, list[Any]]:
    """The transform's own overridden values per leaf, in leaf order, None where there is none.

    Raises:
        ValueError, TypeError: a value that may not stand for the hyperparameter.
        TreeMismatchError: a tree of values that is not like the updates.
    """
    out = {}
    for name in dynamic_fields(tx) if hyper else ():
        if name not in hyper:  # type: ignore[operator]
            continue
        per_entry = is_per_entry(tx, name)
        value = hyper[name]  # type: ignore[index]
        if torch.compiler.is_compiling() and isinstance(value, (np.generic, np.ndarray)):
            # Not as a number, which would be one that the graph has not seen.
            value = torch.as_tensor(value, dtype=torch.float64, device="cpu")
        value = real(value)
        if isinstance(value, (int, float, Tensor)):
            check_value(tx.name, name, value, tx.declared[name], per_entry)
            check_entries(tx.name, name, value, leaves, tree.names(spec))
            out[name] = as_inputs([value] * spec.num_leaves, leaves)
            continue
        given = list(map(real, tree.flatten_like(tx.name, spec, value, f"hyper[{name!r}]")))
        for path, leaf, v in zip(tree.names(spec), leaves, given, strict=True):
            if v is not None:
                check_value(tx.name, name, v, tx.declared[name], per_entry)
                check_entries(tx.name, name, v, [leaf], [path])
        # Numbers that all leaves must agree in are compared later.
        own = name in getattr(tx, "of_leaf", (name,))
        out[name] = as_inputs(given, leaves) if own else given
    return out


def as_inputs(values: Sequence[Any], leaves: Sequence[Any]) -> list[Any]:
    """Numbers as tensors where a graph is compiled, so that others run through that graph too.

    Dynamo makes an input of a number once it has changed, but a constant again where something
    other than arithmetic with tensors uses it.

    Args:
        values: for every leaf a value or None.
        leaves: they say the devices.
    """
    if not torch.compiler.is_compiling():
        return list(values)
    made: list[tuple[Any, torch.device, Tensor]] = []
    out: list[Any] = []
    for value, leaf in zip(values, leaves, strict=True):
        if leaf is None or not isinstance(value, (int, float)):
            out.append(value)
            continue
        for old, device, tensor in made:
            if old is value and device == leaf.device:
                out.append(tensor)
                break
        else:
            wide = torch.float32 if leaf.device.type == "mps" else torch.float64
            out.append(torch.zeros((), dtype=wide, device=leaf.device) + value)
            made.append((value, leaf.device, out[-1]))
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
    if torch.compiler.is_compiling() and not isinstance(decay, Tensor):
        # Dynamo would take the result of math.log for a constant, and compile anew for every decay.
        wide = torch.float32 if count.device.type == "mps" else torch.float64
        decay = torch.full((), decay, dtype=wide, device=count.device)
    if isinstance(decay, Tensor):
        base = decay.to(torch.promote_types(decay.dtype, dtype))
        if not is_watched(decay):
            return -torch.expm1(count.to(dtype) * torch.log(base).to(dtype))
        zero = base == 0  # the logarithm's derivative is infinite there, the power's is not
        power = torch.expm1(count.to(dtype) * torch.log(torch.where(zero, 1.0, base)).to(dtype))
        return torch.where(zero, 1 - base.to(dtype) ** count, -power)
    log_value = math.log(decay) if decay > 0 else -math.inf
    return -torch.expm1(count.to(dtype) * log_value)
