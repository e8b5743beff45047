"""A step between what may fail and what is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


class Prepared(NamedTuple):
    """A step that only has to be written.

    Attributes:
        write: overwrites parameters and states.
        fails_late: ``write`` may still raise; nothing has changed then.
    """

    write: Callable[[], None]
    fails_late: bool


def write_all(steps: Iterable[Prepared]) -> None:
    """Write several steps, of which one at most fails late, so that nothing has if one fails."""
    for step in sorted(steps, key=lambda step: not step.fails_late):
        step.write()
