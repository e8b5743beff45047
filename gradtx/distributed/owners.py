"""Which rank computes which leaf."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

# Floating-point operations that stand for those of an element where nothing is known.
_PER_ELEMENT = 20


def cost_of(shape: Sequence[int], matrix: bool, steps: int = 5) -> int:
    """Floating-point operations of a leaf's update.

    For matrices that are iterated on, ``steps * s**2 * (2 * l + s)`` with their smaller and larger
    dimension; dimensions before the last two count matrices.

    Args:
        shape: of the leaf.
        matrix: whether it is iterated on as a matrix.
        steps: iterations.

    >>> from gradtx.distributed.owners import cost_of
    >>> cost_of((4, 8), matrix=False), cost_of((4, 8), matrix=True)
    (640, 2240)
    """
    plain = _PER_ELEMENT * math.prod(shape)
    if not matrix or len(shape) < 2:
        return plain
    small, large = sorted((shape[0], math.prod(shape[1:])))
    return plain + steps * small**2 * (2 * large + small)


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
