"""Ranks that are drawn while training, and accuracies over ranks afterwards."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

from ..core.random import fold_in, make_key, random_bits
from .config import check_choice, check_rank


def dylora_rank(train_ranks: Sequence[int], step: int, micro_step: int = 0, seed: int = 0) -> int:
    """The rank of a forward pass of "dylora": uniform over the set, the same on every process.

    A function of the counters alone: nothing is advanced, nothing has to be sent.

    Args:
        train_ranks: the set.
        step: of the optimizer, >= 0.
        micro_step: forward pass inside an accumulation of gradients, >= 0.
        seed: an integer of at most 64 bits.

    Raises:
        ValueError: an empty set, one with repetitions, or a number outside its range.

    Source: arXiv 2210.07558.

    >>> import gradtx as gx
    >>> [gx.adapters.dylora_rank((1, 2, 4, 8), step) for step in range(8)]
    [8, 4, 8, 2, 4, 2, 4, 1]
    """
    ranks: Any = sorted(train_ranks)
    if not ranks:
        raise ValueError("dylora_rank: train_ranks must not be empty")
    for k in ranks:
        check_rank("dylora_rank", "train_ranks", k, None)
    if len(set(ranks)) < len(ranks):
        raise ValueError(f"dylora_rank: train_ranks must not repeat, got {tuple(ranks)}")
    for name, value in (("step", step), ("micro_step", micro_step)):
        if not hasattr(value, "__index__") or isinstance(value, bool) or value < 0:
            raise ValueError(f"dylora_rank: {name} must be an integer >= 0, got {value!r}")
    words = random_bits(fold_in(make_key(seed, int(step)), int(micro_step)), 1)
    return int(ranks[int(words[0]) * len(ranks) >> 32])


def aurac(
    ranks: Sequence[int],
    accuracies: Sequence[float],
    axis: Literal["log2", "linear"] = "log2",
) -> float:
    """The area under the curve of accuracy over rank, divided by the width of the range.

    By trapezoids. On powers of two "log2" weights all intervals alike, "linear" the last as much as
    all others together. Of one rank it is that rank's accuracy.

    Args:
        ranks: ascending, >= 1.
        accuracies: one a rank, in any unit.
        axis: "log2" or "linear".

    Raises:
        ValueError: no ranks, unequal lengths, ranks that do not ascend or are below 1, an unknown
            axis.

    Source: arXiv 2605.07850.

    >>> import gradtx as gx
    >>> [gx.adapters.aurac([1, 2, 4], [10.0, 20.0, 30.0], axis) for axis in ("log2", "linear")]
    [20.0, 21.666666666666668]
    """
    check_choice("aurac", "axis", axis, ("log2", "linear"))
    ranks, accuracies = tuple(ranks), tuple(accuracies)  # arrays have no truth value
    if not ranks or len(ranks) != len(accuracies):
        raise ValueError(
            f"aurac: needs as many accuracies as ranks, at least one, got {len(ranks)} ranks and "
            f"{len(accuracies)} accuracies"
        )
    for k in ranks:
        check_rank("aurac", "ranks", k, None)
    if any(a >= b for a, b in itertools.pairwise(ranks)):
        raise ValueError(f"aurac: ranks must ascend, got {list(ranks)}")
    if len(ranks) == 1:
        return float(accuracies[0])
    places = [math.log2(k) if axis == "log2" else float(k) for k in ranks]
    area = math.fsum(
        0.5 * (places[i + 1] - places[i]) * (accuracies[i] + accuracies[i + 1])
        for i in range(len(places) - 1)
    )
    return area / (places[-1] - places[0])
