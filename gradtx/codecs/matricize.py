"""The matrix as which a leaf of any shape is seen."""

from __future__ import annotations

import math
import operator
from functools import lru_cache

from ..core.constants import constant


def square_matricize(n: int) -> tuple[int, int]:
    """The shape (rows, columns) nearest to a square in which n elements fill a matrix.

    columns is the largest divisor of n that is at most sqrt(n), rows = n / columns >= columns.
    A leaf is viewed in that shape row by row, as if contiguous, never transposed. A prime count
    gives (n, 1): a rank-one code of such a leaf saves nothing.

    Args:
        n: number of elements, >= 1.

    Raises:
        ValueError: n < 1.

    Source: arXiv 2412.08894.

    >>> import gradtx as gx
    >>> gx.codecs.square_matricize(1024 * 768), gx.codecs.square_matricize(65537)
    ((1024, 768), (65537, 1))
    """
    if n < 1:
        raise ValueError(f"square_matricize: n must be >= 1, got {n}")
    return _nearest(operator.index(n))  # a number also where a compiler keeps sizes symbolic


@constant
def _nearest(n: int) -> tuple[int, int]:
    return _search(n)


@lru_cache(maxsize=4096)
def _search(n: int) -> tuple[int, int]:
    columns = math.isqrt(n)  # exact where a floating-point root is not
    while n % columns:
        columns -= 1
    return n // columns, columns
