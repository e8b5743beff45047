"""How the vectors of a window are kept: dense, by their entries that are not zero, as factors.

A layout is static and says what a leaf's rows look like; rows are NamedTuples of tensors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from .. import ops
from ..compressors import Blocks, Compressor, SparseCompressor, low_rank
from ..core.errors import TreeMismatchError
from ..core.leaves import LowRankUpdate, SparseUpdate, densify_leaf
from ..core.tree import accumulator_dtype


class DenseRows(NamedTuple):
    """Attributes: ``values``, (window, numel)."""

    values: Tensor


class SparseRows(NamedTuple):
    """Rows by their entries that are not zero.

    Attributes:
        indices: (window, kept), positions inside their block.
        values: (window, kept).
    """

    indices: Tensor
    values: Tensor


class LowRankRows(NamedTuple):
    """Rows as products of factors, ``left @ right.T``.

    Attributes:
        left: (window, m, rank).
        right: (window, n, rank).
    """

    left: Tensor
    right: Tensor


Rows: TypeAlias = DenseRows | SparseRows | LowRankRows


@dataclass(frozen=True)
class Layout(ABC):
    """How the rows of one leaf are kept.

    Attributes:
        shape: of the leaf.
    """

    shape: tuple[int, ...]

    @abstractmethod
    def zeros(self, p: Tensor, window: int, dtype: torch.dtype) -> Any:
        """Rows of zeros on the device of ``p``."""

    @abstractmethod
    def write(self, rows: Any, here: Tensor, u: Any) -> Any:
        """The rows with ``u`` where ``here``, bool (window,), holds.

        Raises:
            TreeMismatchError: ``u`` is not what the layout keeps.
        """

    @abstractmethod
    def dots(self, rows: Any, x: Any) -> Tensor:
        """Inner products with ``x``, dense or as the layout keeps it: float64 (window,)."""

    @abstractmethod
    def combine(self, rows: Any, weights: Tensor) -> Tensor:
        """The sum of the rows times float64 weights (window,), shaped like the leaf."""

    @abstractmethod
    def dense(self, rows: Any) -> Tensor:
        """The rows as a matrix (window, numel)."""

    @property
    def numel(self) -> int:
        """Elements of the leaf."""
        return math.prod(self.shape)

    def misfit(self, got: str) -> TreeMismatchError:
        """The error for an update or a state of another layout."""
        return TreeMismatchError(
            f"gradient_window: a leaf of shape {self.shape} is kept {self}, got {got}; the window "
            "and what makes its updates need the same compressor"
        )


@dataclass(frozen=True)
class Dense(Layout):
    """Every element of every row."""

    def __str__(self) -> str:
        return "dense"

    def zeros(self, p: Tensor, window: int, dtype: torch.dtype) -> DenseRows:
        return DenseRows(p.new_zeros((window, self.numel), dtype=dtype))

    def write(self, rows: DenseRows, here: Tensor, u: Any) -> DenseRows:
        u = densify_leaf(u).reshape(-1)
        self._fits(rows)
        return DenseRows(torch.where(here[:, None], u.to(rows.values.dtype), rows.values))

    def dots(self, rows: DenseRows, x: Any) -> Tensor:
        self._fits(rows)
        return ops.window_dots(rows.values, densify_leaf(x).reshape(-1))

    def combine(self, rows: DenseRows, weights: Tensor) -> Tensor:
        dtype = torch.promote_types(rows.values.dtype, torch.float32)
        return (weights.to(dtype) @ rows.values.to(dtype)).reshape(self.shape)

    def dense(self, rows: DenseRows) -> Tensor:
        return rows.values

    def _fits(self, rows: DenseRows) -> None:
        if not isinstance(rows, DenseRows) or rows.values.shape[1] != self.numel:
            raise self.misfit(f"the state {_shapes(rows)}")


@dataclass(frozen=True)
class Sparse(Layout):
    """The entries that a compressor keeps of every row.

    Attributes:
        blocks: where they are.
    """

    blocks: Blocks

    def __str__(self) -> str:
        return f"as {self.blocks.kept} entries"

    def zeros(self, p: Tensor, window: int, dtype: torch.dtype) -> SparseRows:
        shape = (window, self.blocks.kept)
        return SparseRows(
            p.new_zeros(shape, dtype=self.blocks.dtype), p.new_zeros(shape, dtype=dtype)
        )

    def write(self, rows: SparseRows, here: Tensor, u: Any) -> SparseRows:
        if not isinstance(u, SparseUpdate) or u.indices.shape != (self.blocks.kept,):
            raise self.misfit(f"a {type(u).__name__}")
        self._fits(rows)
        return SparseRows(
            torch.where(here[:, None], u.indices.to(rows.indices.dtype), rows.indices),
            torch.where(here[:, None], u.values.to(rows.values.dtype), rows.values),
        )

    def dots(self, rows: SparseRows, x: Any) -> Tensor:
        self._fits(rows)
        x = densify_leaf(x).reshape(-1)
        return ops.sparse_window_dots(*rows, x, self.blocks.size, max(self.blocks.k, 1))

    def combine(self, rows: SparseRows, weights: Tensor) -> Tensor:
        geometry = (self.numel, self.blocks.size, max(self.blocks.k, 1))
        return ops.sparse_window_combine(*rows, weights, *geometry).reshape(self.shape)

    def dense(self, rows: SparseRows) -> Tensor:
        where, starts = rows.indices.long(), self.blocks.starts(rows.values.device)
        where = where if starts is None else where + starts
        zeros = rows.values.new_zeros((rows.values.shape[0], self.numel))
        return zeros.scatter(1, where, rows.values)

    def _fits(self, rows: SparseRows) -> None:
        if not isinstance(rows, SparseRows) or rows.values.shape[1] != self.blocks.kept:
            raise self.misfit(f"the state {_shapes(rows)}")


@dataclass(frozen=True)
class LowRank(Layout):
    """Both factors of every row.

    Attributes:
        rank: columns of a factor.
    """

    rank: int

    def __str__(self) -> str:
        return f"as factors of rank {self.rank}"

    @property
    def matrix(self) -> tuple[int, int]:
        """The leaf's shape as a matrix."""
        return self.shape[0], math.prod(self.shape[1:])

    def zeros(self, p: Tensor, window: int, dtype: torch.dtype) -> LowRankRows:
        left, right = (p.new_zeros((window, n, self.rank), dtype=dtype) for n in self.matrix)
        return LowRankRows(left, right)

    def write(self, rows: LowRankRows, here: Tensor, u: Any) -> LowRankRows:
        factors = self._factors(u)
        self._fits(rows)
        new = [
            torch.where(here[:, None, None], f.to(old.dtype), old)
            for f, old in zip(factors, rows, strict=True)
        ]
        return LowRankRows(*new)

    def dots(self, rows: LowRankRows, x: Any) -> Tensor:
        self._fits(rows)
        left, right = (f.double() for f in rows)  # (window, m, r), (window, n, r)
        if isinstance(x, LowRankUpdate):
            # <L_i R_i^T, A B^T> = sum of (L_i^T A) * (R_i^T B), two (window, r, r)
            a, b = (f.double() for f in self._factors(x))
            return ((left.mT @ a) * (right.mT @ b)).sum((1, 2))
        x = densify_leaf(x).reshape(self.matrix).double()  # (m, n)
        return ((left.mT @ x).mT * right).sum((1, 2))  # (window, n, r) -> (window,)

    def combine(self, rows: LowRankRows, weights: Tensor) -> Tensor:
        dtype = torch.promote_types(rows.left.dtype, torch.float32)
        m, n = self.matrix
        left = weights.to(dtype)[:, None, None] * rows.left.to(dtype)
        left = left.transpose(0, 1).reshape(m, -1)  # (m, window r)
        right = rows.right.to(dtype).transpose(0, 1).reshape(n, -1)  # (n, window r)
        return (left @ right.mT).reshape(self.shape)

    def dense(self, rows: LowRankRows) -> Tensor:
        return (rows.left @ rows.right.mT).flatten(1)  # (window, m n)

    def _factors(self, u: Any) -> tuple[Tensor, Tensor]:
        """(m, r) and (n, r)."""
        if not isinstance(u, LowRankUpdate) or not u.basis.is_floating_point():
            raise self.misfit(f"a {type(u).__name__}")
        left, right = (u.basis, u.factor.mT) if u.side == "left" else (u.factor, u.basis)
        if left.shape[-1] != self.rank:
            raise self.misfit(f"one of rank {left.shape[-1]}")
        # A matrix of one column counts as contiguous with any stride; states have one form only.
        return left.reshape(-1).reshape(left.shape), right.reshape(-1).reshape(right.shape)

    def _fits(self, rows: LowRankRows) -> None:
        want = [(n, self.rank) for n in self.matrix]
        if not isinstance(rows, LowRankRows) or [tuple(f.shape[1:]) for f in rows] != want:
            raise self.misfit(f"the state {_shapes(rows)}")


def layout_of(compressor: Compressor | None, shape: tuple[int, ...]) -> Layout:
    """The layout of a leaf's rows for what a compressor makes of its updates."""
    if isinstance(compressor, SparseCompressor):
        return Sparse(shape, compressor.blocks(math.prod(shape)))
    if isinstance(compressor, low_rank) and (basis := compressor.basis_shape(shape)) is not None:
        return LowRank(shape, basis[1])
    return Dense(shape)


def row_dtype(p: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of rows: the chosen one, or at least float32."""
    return dtype or accumulator_dtype(p.dtype)


def rounded(u: Any, layout: Layout, dtype: torch.dtype) -> Any:
    """An update with the values that rows of a dtype have, in its own dtype."""
    if isinstance(layout, Dense):
        u = densify_leaf(u)
    if dtype.itemsize >= u.dtype.itemsize:
        return u
    if isinstance(u, LowRankUpdate):
        return replace(u, factor=_through(u.factor, dtype), basis=_through(u.basis, dtype))
    if isinstance(u, SparseUpdate):
        return u.map(lambda x: _through(x, dtype))
    return _through(u, dtype)


def _through(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).to(x.dtype)


def _shapes(rows: Any) -> str:
    return ", ".join(f"{n} {tuple(x.shape)}" for n, x in rows._asdict().items())
