"""Which rank computes which leaf."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def assign_owners(
    costs: Mapping[str, int], ranks: int, turns: Iterable[Iterable[str]] | None = None
) -> dict[str, int]:
    """An owner for every leaf, by longest processing time.

    The most expensive leaf goes first, each to the rank with the least to do; between equals the
    name decides, and the lower rank. It depends on nothing else, so ranks need not talk about it.

    Args:
        costs: by name.
        ranks: how many there are.
        turns: names that are given owners one list after another; default all at once.

    >>> from gradtx.distributed.owners import assign_owners
    >>> assign_owners({"a": 384, "b": 24, "c": 96, "d": 4, "e": 7, "f": 300}, 2)
    {'a': 0, 'b': 0, 'c': 1, 'd': 1, 'e': 1, 'f': 1}
    """
    loads = [0] * ranks
    owners: dict[str, int] = {}
    for turn in [costs] if turns is None else turns:
        for name in sorted(turn, key=lambda name: (-costs[name], name)):
            owners[name] = rank = loads.index(min(loads))
            loads[rank] += costs[name]
    return {name: owners[name] for name in costs}


def imbalance(costs: Mapping[str, int], owners: Mapping[str, int], ranks: int) -> float:
    """The most that a rank has to do over what they have on average.

    >>> from gradtx.distributed.owners import imbalance
    >>> imbalance({"a": 3, "b": 1}, {"a": 0, "b": 1}, 2)
    1.5
    """
    loads = [0] * ranks
    for name, rank in owners.items():
        loads[rank] += costs[name]
    return max(loads) * ranks / sum(loads)
