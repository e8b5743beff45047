"""Products of symmetric matrices that commute, and Newton-Schulz iterations on Gram matrices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from ..ops.symmetric_product import symmetric_product as symmetric

Triple = tuple[float, float, float]


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


def squared(gram: Tensor, b: float, c: float, dtype: torch.dtype) -> Tensor:
    """``b A + c A^2`` in this dtype, of A rounded to it, with which it then commutes."""
    low = gram.to(dtype)
    return symmetric(low, low.mT, low, b, c)


def factor(gram: Tensor, z: Tensor, part: Sequence[Triple], mixed: bool = False) -> Tensor:
    """The matrix Q with Q X = X after these iterations: the product of all a + b A + c A^2.

    Args:
        gram: A of the first iteration, (batch, n, n).
        z: b A + c A^2 of the first iteration.
        part: the coefficients.
        mixed: multiply in bfloat16, the dtype of z; everything else is in float32.
    """
    a = part[0][0]
    # What A is multiplied with and what X is are the same, roundings of z included.
    q = z.to(gram.dtype, copy=True)
    q.diagonal(dim1=-2, dim2=-1).add_(a)
    for after, b, c in part[1:]:
        # All of these are polynomials of the first A, so that A <- p A p = p p A.
        r = symmetric(gram, z, gram, a, 1.0, mixed)
        gram = symmetric(r, z, r, a, 1.0, mixed)
        a, z = after, squared(gram, b, c, z.dtype)
        q = symmetric(q, z, q, a, 1.0, mixed)
    return q
