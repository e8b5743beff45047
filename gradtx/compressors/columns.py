"""Keep the largest columns or rows of a matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..core.fields import static
from ..core.leaves import LowRankUpdate
from ..core.state import advance
from ..ops import add_product_, top_indices
from ..ops.basis import (
    BASES,
    SIDES,
    TRANSFORMS,
    axis_of,
    basis_norms,
    basis_vectors,
    is_inverse,
    rotate,
)
from ..ops.coordinates import is_plain
from ..ops.dct import by_halves
from ..ops.feedback_columns import (
    RowCodes,
    columns_with_feedback_,
    has_columns_with_feedback,
)
from ..ops.largest_columns import choose_columns, largest_columns
from .compressor import Compressor, Payload

_NORMS = {"l1": 1, "l2": 2}


class TopColumnsState(NamedTuple):
    """State of ``top_columns`` for one leaf.

    Attributes:
        step: int32, updates so far.
        chosen: int32 (k,), what is kept until the next choice.
    """

    step: Tensor
    chosen: Tensor


@dataclass(frozen=True, repr=False)
class top_columns(Compressor):
    """Keep the columns of a matrix with the largest norms, or its rows.

    The kept ones go on in ascending order, of equal norms the lower index. With a ``basis`` they
    are those of the matrix's coordinates S = x Q (or Q^T x), and S[:, kept] Q[:, kept]^T is what
    is kept of x.

    Args:
        rank: how many, >= 1, at most the smaller dimension.
        fraction: what share of them instead, in (0, 1], rounded up.
        norm: "l1" or "l2".
        every: choose at updates 1, T, 2T, ... and keep the same ones in between, T >= 1.
        side: "right" for columns, "left" for rows; "std" keeps some of whatever there are fewer
            of (columns of a square matrix), "std_left" too (rows of a square matrix).
        weights: multiply scores by the norms of this basis's columns; None does not.
        basis: Q, of the dimension that ``side`` names, see ``gx.in_basis``; None is the identity.
        transform: how a cosine transform is computed, see ``gx.in_basis``.

    Raises:
        ValueError: a value outside its range, or a leaf that is no matrix.

    Source: arXiv 2505.17967.

    >>> import torch, gradtx as gx
    >>> c, x = gx.compressors.top_columns(1), torch.tensor([[1.0, 5.0], [2.0, 0.0]])
    >>> payload, _ = c.compress(x, c.init(x))
    >>> payload.basis, payload.factor
    (tensor([1]), tensor([[5.],
            [0.]]))
    """

    cannot_raise: ClassVar[bool] = True
    takes_feedback: ClassVar[bool] = True

    rank: int | None = static(None, at_least=1)
    fraction: float | None = static(None, within="(0, 1]")
    norm: Literal["l1", "l2"] = "l1"
    every: int = static(1, at_least=1, steps=True)
    side: str = static("std", choices=SIDES)
    weights: str | None = static(None, choices=(*BASES, None))
    basis: str | None = static(None, choices=(*BASES, None))
    transform: str = static("auto", choices=TRANSFORMS)

    def __post_init__(self) -> None:
        if (self.rank is None) == (self.fraction is None):
            raise ValueError("top_columns: give either rank or fraction")

    def axis(self, shape: tuple[int, ...]) -> int:
        """1 if columns are kept of a matrix of this shape, 0 if rows are.

        Raises:
            ValueError: the shape is no matrix's.
        """
        if len(shape) != 2:
            raise ValueError(
                f"top_columns: needs a matrix, got shape {tuple(shape)}; use gx.as_matrices"
            )
        return axis_of(self.side, *shape)

    def kept(self, shape: tuple[int, ...]) -> int:
        """How many columns or rows are kept of a matrix of this shape."""
        n = shape[self.axis(shape)]
        if self.fraction is not None:
            return min(max(1, math.ceil(self.fraction * n)), n)
        assert self.rank is not None
        return min(self.rank, *shape)

    def init(self, p: Tensor, name: str = "") -> TopColumnsState | tuple[()]:
        chosen = torch.arange(self.kept(tuple(p.shape)), dtype=torch.int32, device=p.device)
        if self.every == 1:
            return ()
        return TopColumnsState(torch.zeros((), dtype=torch.int32, device=p.device), chosen)

    def compress(self, x: Tensor, state: Any) -> tuple[Payload, Any]:
        shape = tuple(x.shape)
        axis, k = self.axis(shape), self.kept(shape)
        side = "right" if axis == 1 else "left"
        if self.basis is not None:
            x = rotate(x, self.basis, side, self.transform)
        seen, squares, weights = x.detach(), self.norm == "l2", None
        if self.weights is not None:
            weights = basis_norms(seen, self.weights, axis, _NORMS[self.norm])
        choose = largest_columns if is_plain(seen) else choose_columns
        chosen = choose(seen, k, axis, squares, weights)
        if isinstance(state, TopColumnsState):
            t = advance(state.step, self.every)
            due = (t == 1) | (t % self.every == 0)
            chosen = torch.where(due, chosen, state.chosen.to(chosen.dtype))
            state = TopColumnsState(t, chosen.to(state.chosen.dtype))
        factor = x.index_select(axis, chosen)
        if self.basis is None:
            return LowRankUpdate(factor, chosen, shape, side), state
        vectors = basis_vectors(self.basis, axis, shape[axis], chosen, x.dtype)
        return LowRankUpdate(factor, vectors, shape, side, chosen), state

    def compress_with_feedback_(
        self, x: Tensor, error: RowCodes, state: Any
    ) -> tuple[Payload, Any] | None:
        shape = tuple(x.shape)
        axis, k = self.axis(shape), self.kept(shape)
        cosines = self.basis is not None and self.basis != "hadamard" and self.weights is None
        few = 2 * k < shape[axis] and self.every == 1
        if not (cosines and few and is_plain(x) and x.is_contiguous() and x.numel()):
            return None
        if not (by_halves(x, shape[axis], self.transform) and has_columns_with_feedback()):
            return None
        assert self.basis is not None
        inverse = is_inverse(self.basis, axis)
        factor, vectors, chosen = columns_with_feedback_(
            x, error, k, axis, inverse, self.norm == "l2"
        )
        side = "right" if axis == 1 else "left"
        return LowRankUpdate(factor, vectors, shape, side, chosen), state

    def residual(self, x: Tensor, payload: Payload) -> Tensor:
        assert isinstance(payload, LowRankUpdate)
        if self.basis is None or payload.chosen is None:
            return super().residual(x, payload)
        right, y, q = payload.side == "right", payload.factor, payload.basis
        n, k = q.shape
        if 2 * k < n:
            factors = (y, q.mT) if right else (q, y)
            if is_plain(x, y, q):
                return add_product_(torch.empty_like(x), *factors, 0.0, -1.0, x)
            return torch.addmm(x, *factors, alpha=-1)
        # Less is dropped than kept, nothing at all if k = n: the product of what is dropped.
        kept = torch.zeros(n, dtype=torch.int32, device=x.device).index_fill(0, payload.chosen, 1)
        dropped = top_indices(-kept, n - k)
        q = basis_vectors(self.basis, int(right), n, dropped, x.dtype)  # (n, n - k)
        return (x @ q) @ q.mT if right else q @ (q.mT @ x)
