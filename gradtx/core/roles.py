"""What a field of a leaf's state is: its role, by which others know how to carry it over."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeAlias, get_args, get_type_hints

from .constants import constant

FIRST, SECOND = "first_moment", "second_moment"

FirstMoment: TypeAlias = Annotated[Any, FIRST]
"""An average, or a sum, of updates: it turns as they do."""

SecondMoment: TypeAlias = Annotated[Any, SECOND]
"""An average, a sum or a maximum of squares of updates."""


def roles(state: Any) -> Mapping[str, str]:
    """The roles of the fields of a state that have one; none if it is no NamedTuple.

    >>> import torch, gradtx as gx
    >>> from gradtx.core.roles import roles
    >>> dict(roles(gx.scale_by_adam().init({"w": torch.ones(1)})["w"]))
    {'mu': 'first_moment', 'nu': 'second_moment', 'nu_max': 'second_moment'}
    """
    kind: Any = type(state)
    return _roles(kind) if hasattr(kind, "_fields") else {}


@constant
def _roles(state: Any) -> Mapping[str, str]:
    return _annotated(state)


@cache
def _annotated(state: Any) -> Mapping[str, str]:
    found = {}
    for name, hint in get_type_hints(state, include_extras=True).items():
        for one in (hint, *get_args(hint)):
            for role in getattr(one, "__metadata__", ()):
                if role in (FIRST, SECOND):
                    found[name] = role
    return found
