"""How many Newton-Schulz iterations can be made on one Gram matrix."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from ..ops.newton_schulz import Triple


def parts_of(
    triples: Sequence[Triple], dtype: torch.dtype, mixed: bool = False
) -> Sequence[Sequence[Triple]]:
    """Runs of iterations between which A = X X^T must be computed anew.

    Iterations on A instead of X take fewer products, but an error of A where the singular value
    vanishes grows by a^2 with every one and would overtake the values themselves. The polynomials
    have little room above the values that they expect, and bfloat16 comes near it sooner. Mixed
    products keep the errors of small values nearly as small as float32 does, unless A is large.

    >>> import torch
    >>> from gradtx.precondition.gram import parts_of
    >>> quintic = [(3.4445, -4.775, 2.0315)] * 5
    >>> [[len(part) for part in parts_of(quintic, d)] for d in (torch.float32, torch.bfloat16)]
    [[3, 2], [2, 2, 1]]
    """
    most = min(150.0, 0.25 / torch.finfo(torch.float32 if mixed else dtype).eps)
    parts: list[list[Triple]] = []
    growth, before, largest = 0.0, 1.0, 1.0
    for triple in triples:
        if not parts or growth > most or (mixed and not before <= _LARGE):
            parts.append([])
            growth = 1.0
        parts[-1].append(triple)
        growth *= triple[0] ** 2
        before, largest = largest, _largest(triple, largest)
    return parts


# What singular values may come to where one A is made of another by mixed products.
_LARGE = 1.5


@cache
def _largest(triple: Triple, bound: float) -> float:
    """What the polynomial makes at most of values in [0, bound]."""
    a, b, c = triple
    values = (bound * i / 64 for i in range(65))
    return max(abs(x * (a + x * x * (b + x * x * c))) for x in values)
