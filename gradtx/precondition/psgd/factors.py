"""Kronecker factors of a tensor: which sides have a matrix, and products along a side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.plain import Plain
from ...ops.symmetric_product import symmetric_product

MODES = ("one_diag", "smart_one_diag", "all_diag")


@dataclass(frozen=True)
class Layout(Plain):
    """How tensors are seen and which of their sides get a matrix; the others get a diagonal.

    Attributes:
        max_size: the longest side with a matrix.
        max_skew: a side d of N elements gets one only if d^2 <= max_skew N; None for always.
        min_ndim: tensors of fewer dimensions have diagonals alone.
        memory_save_mode: "one_diag" gives the longest side a diagonal, "smart_one_diag" where it
            is longer than all others, "all_diag" all; None for none.
        merge_dims: see more than two dimensions as a matrix.
        drop_units: leave out sides of length one.
    """

    max_size: float = math.inf
    max_skew: float | None = 1.0
    min_ndim: int = 0
    memory_save_mode: str | None = None
    merge_dims: bool = False
    drop_units: bool = True

    def dims(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The sides of a tensor of this shape, at least one."""
        dims = tuple(shape)
        if self.merge_dims and len(dims) > 2:
            last = (math.prod(dims[:-1]), dims[-1])
            first = (dims[0], math.prod(dims[1:]))
            # Signed, as published: the side that is longer matters, not by how much.
            dims = min(last, first, key=lambda pair: pair[1] - pair[0])
        if self.drop_units:
            dims = tuple(d for d in dims if d != 1)
        return dims or (1,)

    def dense(self, dims: Sequence[int]) -> tuple[bool, ...]:
        """Which sides have a matrix."""
        numel = math.prod(dims)
        out = [
            1 < d <= self.max_size
            and len(dims) >= self.min_ndim
            and (self.max_skew is None or d * d <= self.max_skew * numel)
            for d in dims
        ]
        if self.memory_save_mode == "all_diag":
            return (False,) * len(dims)
        if self.memory_save_mode is not None:
            longest = max(range(len(dims)), key=lambda i: (dims[i], i))
            if self.memory_save_mode == "one_diag" or dims.count(dims[longest]) == 1:
                out[longest] = False
        return tuple(out)


def unfolded(x: Tensor, side: int) -> Tensor:
    """(batch, d, rest) of (batch, ..., d, ...), with the side first."""
    return x.movedim(side + 1, 1).flatten(2) if x.ndim > 2 else x[:, :, None]


def along(x: Tensor, side: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """What a function of (batch, d, rest) makes of a side of x."""
    moved = x.movedim(side + 1, 1)
    return change(moved.reshape(*moved.shape[:2], -1)).reshape(moved.shape).movedim(1, side + 1)


def times(factor: Tensor, x: Tensor, side: int, transposed: bool = False) -> Tensor:
    """A factor, (batch, d, d) or a diagonal (batch, d), times a side of x."""
    if factor.ndim == 2:
        return along(x, side, lambda y: factor[:, :, None] * y)
    matrix = factor.mT if transposed else factor  # (batch, d, d); y: (batch, d, rest)
    return along(x, side, lambda y: matrix @ y)


def times_all(factors: Sequence[Tensor], x: Tensor, transposed: bool = False) -> Tensor:
    """All factors times x, each along its side."""
    for side, factor in enumerate(factors):
        x = times(factor, x, side, transposed)
    return x


def solved(factors: Sequence[Tensor], v: Tensor) -> Tensor:
    """The inverse transposes of upper triangular factors times v."""

    def solve(factor: Tensor) -> Callable[[Tensor], Tensor]:
        if factor.ndim == 2:
            return lambda y: y / factor[:, :, None]
        return lambda y: torch.linalg.solve_triangular(factor.mT, y, upper=False)

    for side, factor in enumerate(factors):
        v = along(v, side, solve(factor))
    return v


def gram(x: Tensor, side: int, dense: bool) -> Tensor:
    """Products of x with itself over all sides but one, (batch, d, d), or their diagonals."""
    y = unfolded(x, side)
    return symmetric_product(y, y.mT) if dense else y.square().sum(-1)


def balanced(factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The factors with the same largest entry, their product unchanged."""
    if len(factors) == 1:
        return tuple(factors)
    largest = torch.stack([q.abs().flatten(1).amax(-1) for q in factors])  # (sides, batch)
    usable = (largest > 0).all(0)
    largest = torch.where(usable, largest, 1.0)
    gains = largest.log().mean(0).exp() / largest
    return tuple(shaped(gain, q) * q for gain, q in zip(gains, factors, strict=True))


def shaped(x: Tensor, like: Tensor) -> Tensor:
    """Numbers (batch,) that broadcast with (batch, ...)."""
    return x.reshape(-1, *[1] * (like.ndim - 1))
