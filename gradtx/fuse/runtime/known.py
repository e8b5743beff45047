"""Which chains are remembered: what is traced for one serves every engine of an equal chain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch

_ATOMS = (bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device)


def is_plain(x: Any) -> bool:
    """Whether a value is made of numbers, names and functions of modules.

    A tensor, or a function that is defined inside another one, might keep a model alive.
    """
    if isinstance(x, (*_ATOMS, BuiltinFunctionType)):
        return True
    if isinstance(x, FunctionType):
        return x.__closure__ is None and x.__defaults__ is None and x.__kwdefaults__ is None
    if isinstance(x, (tuple, frozenset)):
        return all(map(is_plain, x))
    if isinstance(x, Mapping):
        return all(is_plain(v) for item in x.items() for v in item)
    if not dataclasses.is_dataclass(x) or "__dataclass_fields__" not in vars(type(x)):
        return False
    names = {f.name for f in dataclasses.fields(x)}
    if any(name not in names and not hasattr(type(x), name) for name in vars(x)):
        return False  # more than what is compared
    return all(is_plain(getattr(x, name)) for name in names)


def has_hash(x: Any) -> bool:
    """Whether a value and all that it holds can be looked up."""
    try:
        hash(x)
    except TypeError:
        return False
    return True
