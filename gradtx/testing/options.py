"""Options that choose structure: wrong ones are refused by name when a transform is made."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..core.protocol import members
from .claims import require, require_finite
from .members import replaced, static_fields, with_value
from .subject import Subject, holds_for_all
from .trees import run

BAD: tuple[Any, ...] = (
    *(math.nan, -math.inf, -0.5, 1.5, True, None),
    *("x", (), [], {}, object(), torch.float32),
)
RAW = re.compile("not supported between|unhashable|unpack|not iterable|not callable")


def refusal_of(make: Callable[[], Any]) -> str | None:
    """The words of the error, None if there is none."""
    try:
        make()
    except (TypeError, ValueError) as error:
        return str(error)
    return None


@holds_for_all
def wrong_static_options(s: Subject) -> None:
    """Every static field with every wrong value: an error that names it, or a transform."""
    for _, member in members(s.tx):
        for name in static_fields(member):
            for bad in BAD:
                error = refusal_of(partial(replaced, member, **{name: bad}))
                if error is not None:
                    named = error.startswith(f"{member.name}: ") and not RAW.search(error)
                    require(named, f"{name}={bad!r} is refused with the words {error!r}")


@holds_for_all
def nan_is_no_static_option(s: Subject) -> None:
    """Where one may be constructed with it, no number has come of it."""
    for _, member in members(s.tx):
        for name in static_fields(member):
            try:
                other = with_value(s.tx, [member], name, math.nan)
            except (TypeError, ValueError):
                continue
            outs, _ = run(other, steps=2)
            require_finite(outs, f"with {name} = nan")
