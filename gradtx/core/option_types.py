"""Options have the types that their annotations say, or the error names the option."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import torch

from .fields import is_readable

_WORDS: dict[Any, str] = {
    **{int: "an integer", float: "a number", bool: "True or False", str: "a string"},
    **{None: "None", type(None): "None", torch.dtype: "a torch.dtype", torch.Tensor: "a tensor"},
}
_GENERIC: dict[Any, str] = {
    **{tuple: "a tuple", collections.abc.Sequence: "a sequence"},
    **{collections.abc.Mapping: "a mapping", collections.abc.Callable: "a function"},
}


def check_types(options: Any) -> None:
    """Raise unless the static fields of a dataclass instance are what their annotations say.

    Numbers may be tensors, floats integers, tuples lists; a float is no NaN, and a truth value no
    number. Dynamic hyperparameters have checks of their own.

    Raises:
        ValueError: a number of the wrong kind, NaN among them, or none of the listed values.
        TypeError: anything else.

    >>> import gradtx as gx
    >>> gx.lookahead(gx.scale(1.0), slow_step_size="half")
    Traceback (most recent call last):
    TypeError: lookahead: slow_step_size must be a number, got 'half'
    """
    if torch.compiler.is_compiling():
        return
    hints: Mapping[str, Any] = _hints(type(options))  # type: ignore[arg-type]
    for name, hint in hints.items():
        check_type(name_of(options), name, getattr(options, name), hint)


def check_type(who: str, name: str, value: Any, hint: Any) -> None:
    """Raise unless a value is what an annotation says, see ``check_types``.

    Raises:
        ValueError, TypeError: it is not.
    """
    if not _accepts(hint, value):
        kinds = {typing.get_origin(part) or part for part in _parts(hint)}
        number = bool({int, float} & kinds) and isinstance(value, (bool, int, float))
        name_of_choice = Literal in kinds and isinstance(value, (str, int, float))
        shown = value.__name__ if isinstance(value, type) else repr(value)
        kind = ValueError if number or name_of_choice else TypeError
        raise kind(f"{who}: {name} must be {_words(hint)}, got {shown}")


def name_of(options: Any) -> str:
    """What errors call them."""
    return str(getattr(options, "name", type(options).__name__))


@functools.lru_cache(None)
def _hints(cls: Any) -> Mapping[str, Any]:
    """What the annotations of the static fields say, where they say something."""
    found = {}
    for field in dataclasses.fields(cls):
        owner = next(c for c in cls.__mro__ if field.name in vars(c).get("__annotations__", {}))
        if field.init and field.metadata.get("gradtx.kind") != "dynamic":
            found[field.name] = _evaluated(field.type, vars(sys.modules[owner.__module__]))
    return {name: hint for name, hint in found.items() if hint is not Any}


def _evaluated(hint: Any, names: Mapping[str, Any]) -> Any:
    """An annotation as a type; Any where it refers to what is there for type checkers alone."""
    try:
        return eval(hint, dict(names)) if isinstance(hint, str) else hint
    except (NameError, TypeError):
        return Any


def _accepts(hint: Any, value: Any) -> bool:
    if hint in (None, Any):
        return hint is Any or value is None
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if len(_parts(hint)) > 1:
        return any(_accepts(x, value) for x in _parts(hint))
    if origin is Literal:
        return any(type(value) is type(x) and value == x for x in args)
    if origin is tuple:
        ok = isinstance(value, (tuple, list))
        return ok and (args[-1:] != (...,) or all(_accepts(args[0], x) for x in value))
    if hint is bool:
        return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))
    if hint in (int, float) and not isinstance(value, torch.Tensor):
        number = isinstance(value, (int, hint)) and not isinstance(value, bool)
        return number and value == value
    if hint in (int, float):
        return value.ndim == 0 and not (is_readable(value) and bool(value.isnan()))
    kind = origin or hint
    return not isinstance(kind, type) or isinstance(value, kind)


def _parts(hint: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _words(hint: Any) -> str:
    words = [word for part in _parts(hint) for word in _alternatives(part)]
    return f"{', '.join(words[:-1])} or {words[-1]}" if words[1:] else words[0]


def _alternatives(hint: Any) -> list[str]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return list(map(repr, args))
    if origin is tuple and args[-1:] == (...,):
        return [f"a tuple of which each is {_words(args[0])}"]
    return [_GENERIC.get(origin) or _WORDS.get(hint) or f"a {getattr(hint, '__name__', hint)}"]
