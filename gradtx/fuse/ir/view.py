"""A leaf as a matrix: by which rule its shape becomes a number of rows and of columns.

A rule is the number of leading dimensions whose product is the number of rows, "square" for the
matrix nearest to a square, or the function of a transform that cuts leaves in a way of its own (its
hint ``matrix_view``). The elements of the leaf fill the matrix row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from ...codecs import square_matricize
from ...core.protocol import GradientTransformation, members

Shape: TypeAlias = "tuple[int, ...]"
Rule: TypeAlias = "int | str | Callable[[Shape], tuple[int, int]]"


def matrix(rule: Rule, shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a leaf.

    >>> from gradtx.fuse.ir.view import matrix
    >>> matrix(1, (4, 3, 5)), matrix(2, (4, 3, 5)), matrix("square", (4, 3, 5))
    ((4, 15), (12, 5), (10, 6))
    """
    if isinstance(rule, int):
        return math.prod(shape[:rule]), math.prod(shape[rule:])
    if callable(rule):
        return rule(tuple(shape))
    n = math.prod(shape)
    return square_matricize(n) if n else (0, 0)


def rules(dims: int) -> list[Rule]:
    """All rules for leaves of so many dimensions."""
    return [*range(1, dims), "square"]


def own_rules(tx: GradientTransformation) -> list[Rule]:
    """The rules of a transform and its members."""
    views = [(member, member.execution.matrix_view) for _, member in members(tx)]
    found = [view(member) for member, view in views if view is not None]
    return list(dict.fromkeys(rule for rule in found if rule is not None))


def find(
    shapes: Sequence[Shape], matrices: Sequence[tuple[int, int]], own: Iterable[Rule] = ()
) -> Rule | None:
    """The rule by which these shapes become these matrices, one of ``own`` or of ``rules``."""
    for rule in (*own, *rules(len(shapes[0]))):
        if all(matrix(rule, s) == m for s, m in zip(shapes, matrices, strict=True)):
            return rule
    return None
