"""Numbers of other libraries as Python's: options may be NumPy scalars, fractions or decimals."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor

from .fields import check_static
from .option_types import check_types, name_of

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_PYTHON = (float, bool, str, type(None))
_LEAST, _LIMIT, _EXACT = -(2**63), 2**64, 2**31  # seeds may be unsigned


def plain(value: Any) -> Any:
    """A number of any numeric type as an ``int`` or a ``float``; anything else unchanged.

    Tuples are gone through. Truth values stay what they are, so that checks can refuse them. An
    integer that no tensor holds is a float, and infinite where no float holds it.

    >>> from fractions import Fraction
    >>> import numpy as np
    >>> from gradtx.core.plain import plain
    >>> plain(np.float64(0.5)), plain(np.array(3)), plain(Fraction(1, 4)), plain((np.int64(1), "a"))
    (0.5, 3, 0.25, (1, 'a'))
    """
    if type(value) is int:
        return value if _LEAST <= value < _LIMIT else _as_float(value)
    if type(value) in _PYTHON or isinstance(value, Tensor):
        return value
    if type(value) is tuple:
        out = tuple(map(plain, value))
        return value if all(a is b for a, b in zip(out, value, strict=True)) else out
    if isinstance(value, numbers.Integral):
        return plain(int(value))
    if isinstance(value, (numbers.Real, Decimal)):
        return _as_float(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return plain(value.item())
    return value


def real(value: Any) -> Any:
    """As ``plain``, and large integers as floats: products of them with others would overflow.

    >>> from gradtx.core.plain import real
    >>> real(2), real(2**62)
    (2, 4.611686018427388e+18)
    """
    value = plain(value)
    return float(value) if type(value) is int and abs(value) >= _EXACT else value


def _as_float(value: Any) -> float:
    """The nearest float: an infinity for what is too large, NaN for a decimal that signals one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except ValueError:
        return math.nan


def whole_number(value: Any) -> Any:
    """As ``plain``, and a 0-d integer tensor as an ``int``: what fixes shapes is no tensor."""
    if isinstance(value, Tensor) and value.ndim == 0 and value.dtype in _WHOLE:
        return int(value)
    return plain(value)


def make_plain(options: Any) -> None:
    """Replace the numbers among the fields of a new dataclass instance, see ``plain``."""
    for field in dataclasses.fields(options):
        if not field.init:
            continue
        value = getattr(options, field.name)
        whole = field.type in ("int", "int | None") and "seed" not in field.name
        dynamic = field.type in ("Hyper", "Hyper | None")
        number = whole_number(value) if whole else real(value) if dynamic else plain(value)
        if number is not value:
            object.__setattr__(options, field.name, number)


def same_attributes(a: Any, b: Any) -> Any:
    """Equality of instances whose class does not say what their fields are."""
    if type(a) is not type(b):
        return NotImplemented
    return a is b or vars(a) == vars(b)


class Plain:
    """Base of frozen dataclasses whose fields are options: numbers among them become Python's.

    That happens before the subclass's ``__post_init__``, which sees plain numbers only, in the
    ranges that ``static`` declares. After it, or where it stumbles, fields have the types that
    their annotations say, or an error names one.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = cls.__dict__.get("__post_init__")
        if own is not None:
            cls.__post_init__ = _prepared(own)  # type: ignore[assignment, method-assign]

    def _prepare(self) -> None:
        """What comes before ``__post_init__``."""
        make_plain(self)
        if not torch.compiler.is_compiling():  # what is made there has been made before
            check_static(self, name_of(self))

    def __post_init__(self) -> None:
        if type(self).__post_init__ is Plain.__post_init__:
            self._prepare()
            check_types(self)


def _prepared(check: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(check)
    def prepared(self: Any) -> None:
        if type(self).__post_init__ is not prepared:  # that of a subclass, which has done it
            return check(self)
        self._prepare()
        try:
            check(self)
        except (AttributeError, RuntimeError, TypeError) as error:
            if not str(error).startswith(f"{name_of(self)}: "):
                check_types(self)
            raise
        check_types(self)

    return prepared
