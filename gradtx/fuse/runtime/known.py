"""Which chains are remembered: what is traced for one serves every engine of an equal chain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch

_ATOMS = (bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device)


def may_be_kept(x: Any) -> bool:
    """Whether a chain can be looked up, and keeps nothing alive that others would let go."""
    try:
        hash(x)
    except TypeError:
        return False
    return _is_made_of_values(x)


def _is_made_of_values(x: Any) -> bool:
    """Whether a value is made of numbers, names and functions of modules.

    A tensor, or a function that is defined inside another one, might keep a model alive.
    """
    if isinstance(x, (*_ATOMS, BuiltinFunctionType)):
        return True
    if isinstance(x, FunctionType):
        return x.__closure__ is None and x.__defaults__ is None and x.__kwdefaults__ is None
    if isinstance(x, (tuple, frozenset)):
        return all(map(_is_made_of_values, x))
    if isinstance(x, Mapping):
        return all(_is_made_of_values(v) for item in x.items() for v in item)
    if not dataclasses.is_dataclass(x) or "__dataclass_fields__" not in vars(type(x)):
        return False
    names = {f.name for f in dataclasses.fields(x)}
    if any(name not in names and not hasattr(type(x), name) for name in vars(x)):
        return False  # more than what is compared
    return all(_is_made_of_values(getattr(x, name)) for name in names)
