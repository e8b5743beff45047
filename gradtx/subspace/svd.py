"""The leading singular vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .dense import Basis, DenseProjector
from .projector import canonical, finite_or_zero, keep_if_bad
from .view import View


@dataclass(frozen=True, repr=False)
class svd(DenseProjector):
    """The first singular vectors of the gradient on its compressed side.

    Vectors have their largest entry positive, so that coordinates that are carried over a refresh
    keep their meaning while the subspace moves slowly.

    Args:
        rank: number of vectors, at most the smaller dimension of the matrix.
        side: which dimension is compressed: "std" the smaller one, a square matrix from the right;
            "std_left" likewise, a square matrix from the left; "reverse_std" or "larger" the larger
            one; "left" the first, "right" the second.
        clip_rank: take the largest possible rank where ``rank`` is larger.
        matricize: take leaves with more than two dimensions as first against all others.

    Raises:
        ValueError: a rank below 1, an unknown side; at ``init`` a rank that is too large.

    Source: arXiv 2403.03507.

    >>> import torch, gradtx as gx
    >>> projector, g = gx.subspace.svd(1), torch.diag(torch.tensor([1.0, -5.0]))
    >>> projector.refresh(projector.init(g), g, first=True).basis.abs()
    tensor([[0.],
            [1.]])
    """

    data_dependent = True
    thin = True

    def fresh(self, state: Any, x: Tensor, view: View, first: Tensor | bool) -> Basis:
        new = leading_vectors(x, view.rank).to(state.basis.dtype)
        return Basis(keep_if_bad(new, state.basis, x, first))


def leading_vectors(x: Tensor, rank: int) -> Tensor:
    """The first left singular vectors, with canonical signs."""
    u = torch.linalg.svd(finite_or_zero(x), full_matrices=False)[0]
    return canonical(u[:, :rank])
