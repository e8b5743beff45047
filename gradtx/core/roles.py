"""What a field of a leaf's state is: its role, by which others know how to carry it over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, get_args, get_type_hints

FIRST, SECOND = "first_moment", "second_moment"

FirstMoment: TypeAlias = Annotated[Any, FIRST]
"""An average, or a sum, of updates: it turns as they do."""

SecondMoment: TypeAlias = Annotated[Any, SECOND]
"""An average, a sum or a maximum of squares of updates."""


_KNOWN: dict[Any, Mapping[str, str]] = {}  # a plain dict: compilers look into it while they trace


def roles(state: Any) -> Mapping[str, str]:
    """The roles of the fields of a state that have one; none if it is no NamedTuple.

    >>> import torch, gradtx as gx
    >>> from gradtx.core.roles import roles
    >>> dict(roles(gx.scale_by_adam().init({"w": torch.ones(1)})["w"]))
    {'mu': 'first_moment', 'nu': 'second_moment', 'nu_max': 'second_moment'}
    """
    kind: Any = type(state)
    if not hasattr(kind, "_fields"):
        return {}
    if kind not in _KNOWN:
        note_roles(state)
    return _KNOWN[kind]


def note_roles(state: Any) -> None:
    """Read the annotations of a state's class, so that ``roles`` may be traced."""
    kind: Any = type(state)
    if kind in _KNOWN or not hasattr(kind, "_fields"):
        return
    found = {}
    try:
        hints = get_type_hints(kind, include_extras=True)
    except NameError:  # names that only type checkers know
        hints = {}
    for name, hint in hints.items():
        for one in (hint, *get_args(hint)):
            for role in getattr(one, "__metadata__", ()):
                if role in (FIRST, SECOND):
                    found[name] = role
    _KNOWN[kind] = found
