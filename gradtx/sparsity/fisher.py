"""The inverse of a Fisher matrix of some gradients, block by block, for pruning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import woodbury

_PIECE = 1 << 17  # elements of gradients that are gone through at once: they stay in cache


@dataclass(frozen=True)
class InverseFisher:
    """F^-1 of F = damping I + (1/m) sum_i g_i g_i^T, restricted to blocks of entries.

    With G the gradients of a block as rows, A = G G^T + m damping I = L L^T and Y = L^-1 G, it is
    (I - Y^T Y) / damping. Everything is in float64.

    Attributes:
        rows: Y, (blocks, m, size); zeros where a block is shorter.
        entries: (blocks, size), the entry of the vector that stands there; n where none does.
        damping: > 0.
        n: entries of the vector.
    """

    rows: Tensor
    entries: Tensor
    damping: float
    n: int

    def times(self, x: Tensor) -> Tensor:
        """F^-1 x for a vector (n,)."""
        z = self._blocks(x)  # (blocks, size)
        inside = torch.einsum("bms,bs->bm", self.rows, z)
        out = (z - torch.einsum("bms,bm->bs", self.rows, inside)) / self.damping
        return self._vector(out)

    def diagonal(self) -> Tensor:
        """The diagonal of F^-1, (n,), above zero."""
        pieces = self.rows.split(self._step)
        return self._vector(
            torch.cat([woodbury.inverse_diagonal(part, self.damping) for part in pieces])
        )

    def groups(self, size: int) -> Tensor:
        """The diagonal blocks of F^-1 of ``size`` consecutive entries, (n / size, size, size)."""
        blocks, m, width = self.rows.shape
        y = self.rows.reshape(blocks, m, width // size, size).permute(0, 2, 1, 3)
        eye = torch.eye(size, dtype=y.dtype, device=y.device)
        out = (eye - y.mT @ y) / self.damping  # (blocks, width / size, size, size)
        first = self.entries.reshape(blocks, width // size, size)[..., 0].reshape(-1)
        there = first < self.n
        return out.reshape(-1, size, size)[there][first[there].argsort()]

    def pinned(self, w: Tensor, drop: Tensor) -> Tensor:
        """The change of w (n,) that sets the entries ``drop`` to zero at the least cost.

        -F^-1[:, Q] (F^-1[Q, Q])^-1 w_Q, block by block. With Y_Q the columns of Q,
        (I - Y_Q^T Y_Q)^-1 = I + Y_Q^T (I - Y_Q Y_Q^T)^-1 Y_Q, a system of m x m.
        """
        gone = self._blocks(drop.to(w.dtype)) > 0  # (blocks, size)
        z = torch.where(gone, self._blocks(w), 0)
        out = torch.empty_like(z)
        parts = (x.split(self._step) for x in (self.rows, gone, z, out))
        for y, q, zq, step in zip(*parts, strict=True):
            yq = torch.where(q[:, None], y, 0)  # (blocks, m, size)
            eye = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
            inside = torch.linalg.solve(eye - yq @ yq.mT, yq @ zq[..., None])  # (blocks, m, 1)
            lagrange = zq + (yq.mT @ inside)[..., 0]
            moved = (y.mT @ (yq @ lagrange[..., None]))[..., 0]
            step.copy_(moved - lagrange)
        return self._vector(out)

    @property
    def _step(self) -> int:
        """How many blocks are gone through at once."""
        _, m, size = self.rows.shape
        return max(_PIECE // max(m * size, 1), 1)

    def _blocks(self, x: Tensor) -> Tensor:
        wide = x.to(self.rows.dtype)
        return torch.cat([wide, wide.new_zeros(1)])[self.entries]

    def _vector(self, blocks: Tensor) -> Tensor:
        out = blocks.new_zeros(self.n + 1)
        return out.scatter(0, self.entries.reshape(-1), blocks.reshape(-1))[: self.n]


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
    if block is not None and (isinstance(block, bool) or not isinstance(block, int) or block < 1):
        raise ValueError(f"inverse_fisher: block must be an integer >= 1 or None, got {block!r}")
    if not all_finite(gradients):
        bad = int((~torch.isfinite(gradients)).any(dim=1).nonzero()[0])
        raise ValueError(f"inverse_fisher: gradient {bad} has a NaN or an infinity")
    m, n = gradients.shape
    entries = _entries(list(sizes or [n]), block or max(n, 1), n).to(gradients.device)
    # Column by column, as solvers give them.
    rows = entries.new_empty((*entries.shape, m), dtype=torch.float64).mT
    step = max(_PIECE // (m * entries.shape[1]), 1)
    for part, out in zip(entries.split(step), rows.split(step), strict=True):
        out.copy_(_whitened(gradients, part, damping))
    return InverseFisher(rows, entries, damping, n)


def all_finite(x: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinity; a finite sum says so faster."""
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def _whitened(gradients: Tensor, entries: Tensor, damping: float) -> Tensor:
    """Y of some blocks, (blocks, m, size)."""
    m, n = gradients.shape
    first, last = int(entries[0, 0]), int(entries.max())
    g = entries.new_empty((len(entries), m, entries.shape[1]), dtype=torch.float64)
    if last < n:  # nothing is missing, so that entries follow one another
        g.copy_(gradients[:, first : last + 1].reshape(m, *entries.shape).transpose(0, 1))
    else:
        g.copy_(gradients[:, entries.clamp(max=n - 1)].transpose(0, 1))
        g = torch.where((entries < n)[:, None], g, 0)
    lower, there = woodbury.factor(g @ g.mT, m * damping)
    if not bool(there.all()):
        raise ValueError(
            "inverse_fisher: damping is too small for gradients of this size: the Fisher matrix is "
            f"not positive definite in float64 with damping={damping!r}"
        )
    return woodbury.whitened(lower, g)


def _entries(sizes: list[int], block: int, n: int) -> Tensor:
    """Which entry of the vector stands where in a block, (blocks, block)."""
    out, start = [], 0
    width = min(block, max(sizes, default=1))
    for size in sizes:
        for first in range(0, size, width):
            index = torch.arange(first, first + width, dtype=torch.int64, device="cpu")
            out.append(torch.where(index < size, start + index, n))
        start += size
    return torch.stack(out)
