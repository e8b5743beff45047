"""The inverse of a Fisher matrix of some gradients, block by block, for pruning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.plain import plain
from ..ops import block_fisher, block_fisher_times
from ..ops.block_fisher import blocks_of, unpacked

_PIECE = 1 << 17  # elements of blocks that are gone through at once: they stay in cache


class _Piece(NamedTuple):
    """Some blocks of one leaf.

    Attributes:
        rows: R (blocks, s, width), with F^-1 = m R^T R, or (I - R^T R) / damping.
        few: whether it is the first.
        span: the entries of the vector that they are.
    """

    rows: Tensor
    few: bool
    span: slice


@dataclass(frozen=True)
class InverseFisher:
    """F^-1 of F = damping I + (1/m) sum_i g_i g_i^T, restricted to blocks of entries.

    What is kept of a block is a triangle, as large as its entries or the gradients are many,
    whichever is less; ``gx.ops.block_fisher`` makes it. Everything is in float64.

    Attributes:
        gradients: (m, n).
        factors: one a leaf, (blocks, s (s + 1) / 2).
        entries: the diagonal of F^-1, (n,), above zero.
        sizes: numbers of entries of the leaves.
        block: entries of a block.
        damping: > 0.
    """

    gradients: Tensor
    factors: tuple[Tensor, ...]
    entries: Tensor
    sizes: tuple[int, ...]
    block: int
    damping: float

    def times(self, x: Tensor) -> Tensor:
        """F^-1 x for a vector (n,)."""
        wide = x.to(self.entries.dtype).split(self.sizes)
        each = zip(self.gradients.split(self.sizes, dim=1), self.factors, wide, strict=True)
        out = [block_fisher_times(g, f, z, self.block, self.damping) for g, f, z in each]
        return out[0] if len(out) == 1 else torch.cat(out)

    def diagonal(self) -> Tensor:
        """The diagonal of F^-1, (n,), above zero."""
        return self.entries

    def groups(self, size: int) -> Tensor:
        """The diagonal blocks of F^-1 of ``size`` consecutive entries, (n / size, size, size)."""
        eye = torch.eye(size, dtype=self.entries.dtype, device=self.entries.device)
        out = []
        for rows, few, span in self._pieces():
            y = rows.unflatten(2, (-1, size)).transpose(1, 2)  # (blocks, width / size, s, size)
            inside = y.mT @ y
            inside = len(self.gradients) * inside if few else (eye - inside) / self.damping
            out.append(inside.flatten(0, 1)[: (span.stop - span.start) // size])
        return torch.cat(out)

    def pinned(self, w: Tensor, drop: Tensor) -> Tensor:
        """The change of w (n,) that sets the entries ``drop`` to zero at the least cost.

        -F^-1[:, Q] (F^-1[Q, Q])^-1 w_Q, block by block.
        """
        wide = w.to(self.entries.dtype)
        out = []
        for rows, few, span in self._pieces():
            gone = blocks_of(drop[span], rows.shape[2])[:, None]  # (blocks, 1, width)
            z = torch.where(gone, blocks_of(wide[span], rows.shape[2])[:, None], 0)
            change = (_pinned_by_entries if few else _pinned_by_rows)(rows, gone, z.mT)
            out.append(change.flatten()[: span.stop - span.start])
        return torch.cat(out)

    def _pieces(self) -> Iterator[_Piece]:
        """All blocks, some at a time."""
        start, m = 0, len(self.gradients)
        for n, factor in zip(self.sizes, self.factors, strict=True):
            width = min(self.block, max(n, 1))
            few, step = width <= m, max(_PIECE // (min(m, width) * width), 1)
            for i, packed in enumerate(factor.split(step)):
                span = slice(start + i * step * width, start + min((i + 1) * step * width, n))
                rows = unpacked(packed)
                if not few:
                    g = blocks_of(self.gradients[:, span], width).movedim(1, 0)
                    rows = rows @ g.to(rows.dtype)  # (blocks, m, width)
                yield _Piece(rows, few, span)
            start += n


def _pinned_by_entries(rows: Tensor, gone: Tensor, z: Tensor) -> Tensor:
    """The change for F^-1 = R^T R, times any number: systems of width x width."""
    inside = torch.where(gone, rows, 0)  # R_Q, (blocks, s, width)
    rest = torch.diag_embed((~gone[:, 0]).to(rows.dtype))
    return -(rows.mT @ (inside @ torch.linalg.solve(inside.mT @ inside + rest, z)))[..., 0]


def _pinned_by_rows(rows: Tensor, gone: Tensor, z: Tensor) -> Tensor:
    """The change for F^-1 = I - R^T R, times any number: systems of m x m.

    (I - R_Q^T R_Q)^-1 = I + R_Q^T (I - R_Q R_Q^T)^-1 R_Q.
    """
    inside = torch.where(gone, rows, 0)  # R_Q, (blocks, m, width)
    eye = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    lagrange = z + inside.mT @ torch.linalg.solve(eye - inside @ inside.mT, inside @ z)
    return (rows.mT @ (inside @ lagrange) - lagrange)[..., 0]


def inverse_fisher(
    gradients: Tensor,
    damping: float = 1e-5,
    block: int | None = None,
    sizes: Sequence[int] | None = None,
) -> InverseFisher:
    """The inverse Fisher matrix of some gradients.

    Args:
        gradients: (m, n), one a row, m >= 1.
        damping: > 0.
        block: entries of a block, >= 1; the last one is shorter. None for one block of all.
        sizes: numbers of entries of the leaves, if blocks do not cross from one into the next.

    Raises:
        ValueError: a value outside its range, or gradients that are not finite.

    Source: arXiv 2107.03356, arXiv 2203.07259.

    >>> import torch, gradtx as gx
    >>> inverse = gx.sparsity.inverse_fisher(torch.tensor([[1.0, 0.0]]), damping=1.0)
    >>> inverse.diagonal(), inverse.times(torch.ones(2))
    (tensor([0.5000, 1.0000], dtype=torch.float64), tensor([0.5000, 1.0000], dtype=torch.float64))
    """
    if gradients.ndim != 2 or not len(gradients):
        raise ValueError(
            f"inverse_fisher: gradients must be (m, n) with m >= 1, got {tuple(gradients.shape)}"
        )
    if not damping > 0:
        raise ValueError(f"inverse_fisher: damping must be > 0, got {damping!r}")
    block = plain(block)
    if block is not None and (isinstance(block, bool) or not isinstance(block, int) or block < 1):
        raise ValueError(f"inverse_fisher: block must be an integer >= 1 or None, got {block!r}")
    n = gradients.shape[1]
    parts, width = tuple(sizes or [n]), block or max(n, 1)
    wide = gradients.to(torch.promote_types(gradients.dtype, torch.float32))
    each = [block_fisher(g, width, damping) for g in wide.split(parts, dim=1)]
    diagonal = each[0][1] if len(each) == 1 else torch.cat([d for _, d in each])
    if not all_finite(diagonal):  # one pass over the gradients less, where nothing is wrong
        bad = (~torch.isfinite(gradients)).any(dim=1).nonzero()
        if len(bad):
            raise ValueError(f"inverse_fisher: gradient {int(bad[0])} has a NaN or an infinity")
        raise ValueError(
            "inverse_fisher: damping is too small for gradients of this size: the Fisher matrix is "
            f"not positive definite in float64 with damping={damping!r}"
        )
    return InverseFisher(wide, tuple(f for f, _ in each), diagonal, parts, width, damping)


def all_finite(x: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinity; a finite sum says so faster."""
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())
