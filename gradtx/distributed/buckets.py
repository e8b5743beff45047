"""Which leaves travel together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def buckets_of(
    sizes: Mapping[Key, int], bound: int, together: Iterable[Sequence[Key]] = ()
) -> list[list[Key]]:
    """Leaves from the last to the first, as backward passes give gradients, in lists.

    A list ends where another leaf would take it above the bound.

    Args:
        sizes: bytes of leaves in the order of parameters.
        bound: bytes of a list; one leaf alone may have more.
        together: leaves that must be in one list, whatever they take.

    >>> from gradtx.distributed.buckets import buckets_of
    >>> buckets_of({"a": 2, "b": 2, "c": 3, "d": 1}, 4)
    [['d', 'c'], ['b', 'a']]
    >>> buckets_of({"a": 2, "b": 2, "c": 3, "d": 1}, 4, [["a", "d"]])
    [['a', 'd'], ['c'], ['b']]
    """
    of = {key: unit for unit in together for key in unit}
    out: list[list[Key]] = []
    done: set[Key] = set()
    size = 0
    for key in reversed(list(sizes)):
        if key in done:
            continue
        unit = list(of.get(key, (key,)))
        more = sum(sizes[one] for one in unit)
        if not out or size + more > bound:
            out.append([])
            size = 0
        out[-1] += unit
        size += more
        done.update(unit)
    return out
