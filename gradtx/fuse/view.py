"""A leaf as a matrix: by which rule its shape becomes a number of rows and of columns.

A rule is the number of leading dimensions whose product is the number of rows, or "square" for the
matrix nearest to a square. The elements of the leaf fill the matrix row by row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from ..codecs import square_matricize

Rule: TypeAlias = "int | str"
Shape: TypeAlias = "tuple[int, ...]"


def matrix(rule: Rule, shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a leaf.

    >>> from gradtx.fuse.view import matrix
    >>> matrix(1, (4, 3, 5)), matrix(2, (4, 3, 5)), matrix("square", (4, 3, 5))
    ((4, 15), (12, 5), (10, 6))
    """
    if isinstance(rule, int):
        return math.prod(shape[:rule]), math.prod(shape[rule:])
    n = math.prod(shape)
    return square_matricize(n) if n else (0, 0)


def rules(dims: int) -> list[Rule]:
    """All rules for leaves of so many dimensions."""
    return [*range(1, dims), "square"]


def find(shapes: Sequence[Sequence[int]], matrices: Sequence[tuple[int, int]]) -> Rule | None:
    """The rule by which these shapes become these matrices."""
    for rule in rules(len(shapes[0])):
        if all(matrix(rule, s) == m for s, m in zip(shapes, matrices, strict=True)):
            return rule
    return None
