"""Which options of a class choose members of its chain, and where the others arrive in it.

Nothing of that is written down: recipes are called with marked values, and these are looked for in
the chain that comes out.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..core import hyper as hyper_
from ..core.option_types import check_type
from ..core.plain import whole_number
from ..core.protocol import GradientTransformation, declared_hyper, members
from .options import Option, common_interval, intervals, per_entry

ON = "on"  # stands for any value with which a member is there
_ANY = "(-inf, inf)"
# What a chain is made of: values of the structural options, and for every switch zero, None or ON.
Structure = tuple[tuple[Any, ...], tuple[Any, ...]]


@functools.cache
def structural(cls: Any) -> tuple[str, ...]:
    """The options of a class that choose members: structural ones, and where zero or None does."""
    said = cls.declaration
    values = tuple(frozen(cls.signature[option]) for option in said.structural)
    on = {name: _on_value(cls, name) for name in said.dynamic}
    there = _shape(_call(cls, values, on))
    chosen = set(said.structural)
    for name, switch in said.switches.items():
        for off in (0.0, None) if switch.may_be_none else (0.0,):
            if _shape_or_none(cls, values, {**on, name: off}) not in (None, there):
                chosen.add(switch.option)
    return tuple(option for option in cls.signature if option in chosen)


def frozen(value: Any) -> Any:
    """A value of a structural option as caches take it."""
    return whole_number(tuple(value) if isinstance(value, list) else value)


@functools.lru_cache(maxsize=256)
def built(cls: Any, structure: Structure) -> GradientTransformation:
    """The chain of a class; the values of dynamic options are put into it at every step."""
    arguments = _arguments(cls, structure)
    there = _shape(_call(cls, structure[0], arguments))
    for name, value in arguments.items():  # the class's zeros, where they leave nothing out
        default = cls.declaration.default(name)
        usual = {**arguments, name: default}
        if default == 0 and value != 0 and _shape_or_none(cls, structure[0], usual) == there:
            arguments = usual
    return _same_object(_call(cls, structure[0], arguments))


@functools.lru_cache(maxsize=256)
def _same_object(tx: GradientTransformation) -> GradientTransformation:
    """One object for equal chains: what ran the last step is found by identity."""
    return tx


@functools.lru_cache(maxsize=256)
def options(cls: Any, structure: Structure) -> Mapping[str, Option]:
    """The dynamic options that arrive in the chain."""
    tx, arrived = _marked(cls, structure[0], _arguments(cls, structure))
    everything = declared_hyper(tx)
    within, wide = intervals(tx), per_entry(tx)
    out = {}
    for option, names in cls.declaration.options.items():
        targets = [arrived.get(name, ()) for name in names]
        if any(targets):
            out[option] = Option(
                tuple(_short(full, everything) for full in targets),
                tuple(common_interval(within[f] for f in full) or _ANY for full in targets),
                cls.signature[option],
                len(names) == 1 and any(f in wide for f in targets[0]),
            )
    return out


@functools.lru_cache(maxsize=256)
def _arguments(cls: Any, structure: Structure) -> Mapping[str, Any]:
    """Values of the dynamic arguments that give a chain its members.

    Zero and None only where they leave a member out, so that other values find the same chain.

    Raises:
        TypeError, ValueError: the recipe refuses the options together.
    """
    values, tokens = structure
    switched = dict(zip(cls.declaration.switches, tokens, strict=True))
    off = {name: token for name, token in switched.items() if token != ON}
    given = {name: _on_value(cls, name) for name in cls.declaration.dynamic} | off
    for name in off:
        on = {**given, name: _on_value(cls, name)}
        there = _shape_or_none(cls, values, on)
        try:
            if _shape(_call(cls, values, given)) == there:
                given = on
        except (TypeError, ValueError):
            # Where a member does not take zero, the check of the option says so.
            if there is None or _takes_zero(cls, values, on, name):
                raise
            given = on
    return given


def _takes_zero(cls: Any, values: Sequence[Any], on: Mapping[str, Any], name: str) -> bool:
    """Whether all members that an argument reaches take zero."""
    tx, arrived = _marked(cls, values, on)
    within = intervals(tx)
    return all(hyper_.contains(within[full], 0.0) for full in arrived[name])


def _marked(
    cls: Any, values: Sequence[Any], arguments: Mapping[str, Any]
) -> tuple[GradientTransformation, dict[str, tuple[str, ...]]]:
    """A chain made with marked values, and by argument the hyperparameters that hold its mark."""
    on = [(name, value) for name, value in arguments.items() if value not in (None, 0)]
    # Values that no other argument has, by less than what could matter to a recipe.
    marks = {name: value * (1 - i * 2.0**-40) for i, (name, value) in enumerate(on, 1)}
    tx = _call(cls, values, {**arguments, **marks})
    held = [(full, value) for full, value in declared_hyper(tx).items() if type(value) is float]
    return tx, {
        name: tuple(full for full, value in held if value == mark) for name, mark in marks.items()
    }


def _on_value(cls: Any, name: str) -> Any:
    """A value with which a member is there: the default, or one that is neither None nor zero."""
    default = cls.declaration.default(name)
    return 0.9 if default in (None, 0) else default


def _call(cls: Any, values: Sequence[Any], arguments: Mapping[str, Any]) -> GradientTransformation:
    said = cls.declaration
    chosen = dict(zip(said.structural.values(), values, strict=True))
    try:
        made: GradientTransformation = cls.build(**chosen, **arguments)
    except (AttributeError, RuntimeError, TypeError) as error:
        if not re.match(r"[\w.]+: ", str(error)):  # of Python: a recipe that compares, say
            for option, name in said.structural.items():
                check_type(cls.__name__, option, chosen[name], said.hints.get(name, Any))
        _say_class(cls, error)
        raise
    except ValueError as error:
        _say_class(cls, error)
        raise
    return made


def _say_class(cls: Any, error: Exception) -> None:
    """Let the error of a member say the class as well.

    Raises:
        ValueError, TypeError: the same with the class in front.
    """
    who, words = cls.__name__, str(error)
    if type(error) in (ValueError, TypeError) and not words.startswith(f"{who}: "):
        raise type(error)(f"{who}: {words}") from None


def _shape_or_none(
    cls: Any, values: Sequence[Any], arguments: Mapping[str, Any]
) -> list[Any] | None:
    """The shape of a chain, None where the recipe refuses the values."""
    try:
        return _shape(_call(cls, values, arguments))
    except (TypeError, ValueError):
        return None


def _shape(tx: GradientTransformation) -> list[Any]:
    """All of a chain but for the values of its dynamic hyperparameters."""
    return [(path, type(member), *_static(member)) for path, member in members(tx)]


def _static(member: GradientTransformation) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(member):
        dynamic = hyper_.dynamic_fields(member)
        for field in dataclasses.fields(member):
            value = getattr(member, field.name)
            if field.name in dynamic:
                yield field.name, value is None
            elif not _has_transforms(value):
                yield field.name, value


def _has_transforms(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_has_transforms, value))
    if isinstance(value, Mapping):
        return any(map(_has_transforms, value.values()))
    return isinstance(value, GradientTransformation)


def _short(full: Sequence[str], everything: Mapping[str, Any]) -> tuple[str, ...]:
    """A hyperparameter's name alone where it means no other member, else full names."""
    names = {name.rpartition(".")[2] for name in full}
    if len(names) == 1:
        (short,) = names
        if all(name in full for name in everything if name.rpartition(".")[2] == short):
            return (short,)
    return tuple(full)
