"""The subspace of the last time, moved towards the leading singular vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .dense import Basis, DenseProjector
from .orthonormal import orthonormal
from .projector import finite_or_zero, keep_if_bad
from .refresh import either
from .svd import leading_vectors
from .view import View


@dataclass(frozen=True, repr=False)
class power_iteration(DenseProjector):
    """One sweep of block power iteration from the old basis: Q = qr(X (X^T Q_old)).

    The first refresh takes the singular vectors. A later one costs two products and the
    decomposition of a thin matrix.

    Args:
        rank: number of vectors, at most the smaller dimension of the matrix.
        side: see ``svd``.
        clip_rank: take the largest possible rank where ``rank`` is larger.
        matricize: take leaves with more than two dimensions as first against all others.
        signs: of the vectors of a later refresh: "largest", their largest entry is positive; or
            "diagonal", that of the triangular factor is.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2410.16103.

    >>> import torch, gradtx as gx
    >>> projector, g = gx.subspace.power_iteration(1), torch.diag(torch.tensor([1.0, 2.0]))
    >>> state = gx.subspace.Basis(torch.ones(2, 1) / 2**0.5)
    >>> projector.refresh(state, g).basis * 17**0.5
    tensor([[1.0000],
            [4.0000]])
    """

    thin = True

    signs: Literal["largest", "diagonal"] = "largest"

    def fresh(self, state: Any, x: Tensor, view: View, first: Tensor | bool) -> Basis:
        old = state.basis.to(x.dtype)  # (batch, size, rank); x: (batch, size, length)

        def swept() -> Tensor:
            safe = finite_or_zero(x)
            y = safe @ (safe.mT @ old)
            q = orthonormal(y)
            if self.signs == "largest":
                return q
            return torch.where((q * y).sum(-2) < 0, -q, q)  # the diagonal of R = Q^T Y

        new = either(first, lambda: leading_vectors(x, view.rank), swept)
        return Basis(keep_if_bad(new.to(state.basis.dtype), state.basis, x, first))
