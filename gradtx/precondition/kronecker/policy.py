"""Options of preconditioners that are a value of their own."""

from __future__ import annotations

from ...core.declared import short_repr
from ...core.plain import Plain


class Policy(Plain):
    """Base of frozen dataclasses that say how a part of a preconditioner works."""

    def __repr__(self) -> str:
        return short_repr(type(self).__name__, self)
