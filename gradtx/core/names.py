"""Names of options that nothing has: which one was meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

# What options are called elsewhere: the first of these that there is was meant.
_ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("lr",),
    "step_size": ("lr",),
    "wd": ("weight_decay",),
    "l2": ("weight_decay",),
    "decay": ("momentum", "weight_decay"),
    "momentum": ("decay", "b1", "betas"),
    "mu": ("momentum", "decay"),
    "beta": ("betas", "b1", "momentum", "decay"),
    "betas": ("b1", "b2"),
    "beta1": ("betas", "b1"),
    "beta2": ("betas", "b2"),
    "b1": ("betas",),
    "b2": ("betas",),
    "b3": ("betas",),
    "epsilon": ("eps",),
    "use_muon": ("matrix",),
    "algorithm": ("matrix",),
}


def meant(name: str, known: Iterable[str]) -> str | None:
    """The known name that another one stands for, or None if it is like none of them.

    >>> from gradtx.core.names import meant
    >>> meant("lrr", ["lr", "eps"]), meant("learning_rate", ["lr"]), meant("note", ["lr"])
    ('lr', 'lr', None)
    """
    known = list(known)
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.8)
    return called_elsewhere(name, known) or (close[0] if close else None)


def called_elsewhere(name: str, known: Collection[str]) -> str | None:
    """The known name of what other libraries call ``name``, or None."""
    path, _, last = name.lower().rpartition(".")
    last = last.replace("-", "_")
    alike = difflib.get_close_matches(last, _ELSEWHERE, n=1, cutoff=0.85)
    for other in _ELSEWHERE.get(last, _ELSEWHERE[alike[0]] if alike else ()):
        for candidate in (f"{path}.{other}".lstrip("."), other):
            if candidate in known:
                return candidate
    return None


def suggestion(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'lr'?"``, or nothing.

    >>> from gradtx.core.names import suggestion
    >>> suggestion("wd", ["lr", "weight_decay"])
    "; did you mean 'weight_decay'?"
    """
    found = meant(name, known)
    return "" if found is None else f"; did you mean {found!r}?"


def unknown_override(who: str, name: Any, known: Iterable[str]) -> ValueError:
    """The error for a name in ``hyper`` that no member has."""
    known = sorted(known)
    if not known:
        return ValueError(f"{who}: hyper has {name!r}, but nothing here can be overridden")
    hint = suggestion(str(name), known) or "."
    return ValueError(f"{who}: hyper has {name!r}, which nothing here has{hint} There is {known}")
