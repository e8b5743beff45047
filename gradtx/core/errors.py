"""The errors that gradtx raises for leaves and trees."""

from __future__ import annotations

from collections.abc import Sequence


class UnsupportedLeafError(RuntimeError):
    """A leaf has a type, dtype or layout that the named transform cannot take."""


class TreeMismatchError(ValueError):
    """Two trees that must have the same structure or shapes do not."""


def shape_mismatch(
    who: str, path: str, what: str, got: Sequence[int], other: str, want: Sequence[int]
) -> TreeMismatchError:
    """Build the error for two shapes that differ at one leaf."""
    return TreeMismatchError(
        f"{who}: leaf {path!r}: {what} has shape {tuple(got)}, {other} has shape {tuple(want)}"
    )
