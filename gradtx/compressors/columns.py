"""Keep the largest columns or rows of a matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..core.leaves import LowRankUpdate
from ..core.state import advance
from ..ops import top_indices
from ..ops.basis import SIDES, axis_of, basis_norms, check_basis
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

    The kept ones go on in ascending order, of equal norms the lower index. Behind ``gx.in_basis``
    they are coordinates in that basis.

    Args:
        rank: how many, >= 1, at most the smaller dimension.
        fraction: what share of them instead, in (0, 1], rounded up.
        norm: "l1" or "l2".
        every: choose at updates 1, T, 2T, ... and keep the same ones in between, T >= 1.
        side: "right" for columns, "left" for rows; "std" keeps some of whatever there are fewer
            of (columns of a square matrix), "std_left" too (rows of a square matrix).
        weights: multiply scores by the norms of this basis's columns; None does not.

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

    rank: int | None = None
    fraction: float | None = None
    norm: Literal["l1", "l2"] = "l1"
    every: int = 1
    side: str = "std"
    weights: str | None = None

    def __post_init__(self) -> None:
        if (self.rank is None) == (self.fraction is None):
            raise ValueError("top_columns: give either rank or fraction")
        for name in ("rank", "every"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and value >= 1):
                raise ValueError(f"top_columns: {name} must be an integer >= 1, got {value!r}")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"top_columns: fraction must be in (0, 1], got {self.fraction}")
        if self.norm not in _NORMS:
            raise ValueError(f"top_columns: norm must be 'l1' or 'l2', got {self.norm!r}")
        if self.side not in SIDES:
            raise ValueError(f"top_columns: side must be one of {SIDES}, got {self.side!r}")
        if self.weights is not None:
            check_basis("top_columns", self.weights)

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
        axis, k = self.axis(tuple(x.shape)), self.kept(tuple(x.shape))
        power = _NORMS[self.norm]
        seen = x.detach()
        # Ten times as fast as vector_norm along a dimension.
        dim = 1 - axis
        scores = seen.abs().sum(dim) if power == 1 else seen.square().sum(dim).sqrt()
        if self.weights is not None:
            scores = scores * basis_norms(seen, self.weights, axis, power)
        chosen = top_indices(scores, k)
        if isinstance(state, TopColumnsState):
            t = advance(state.step, self.every)
            due = (t == 1) | (t % self.every == 0)
            chosen = torch.where(due, chosen, state.chosen.to(chosen.dtype))
            state = TopColumnsState(t, chosen.to(state.chosen.dtype))
        factor = x[:, chosen] if axis == 1 else x[chosen]
        side = "right" if axis == 1 else "left"
        return LowRankUpdate(factor, chosen, tuple(x.shape), side), state
