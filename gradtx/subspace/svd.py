"""The leading singular vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import decompositions
from .dense import VectorsProjector
from .projector import canonical, finite_or_zero
from .view import View


@dataclass(frozen=True, repr=False)
class svd(VectorsProjector):
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

    def vectors(self, x: Tensor, states: list[Any], view: View) -> Tensor:
        return canonical(left_vectors(x)[..., : view.rank])


def leading_vectors(x: Tensor, rank: int) -> Tensor:
    """The first left singular vectors of every matrix of a batch, with canonical signs."""
    return canonical(left_vectors(finite_or_zero(x))[..., :rank])


def left_vectors(x: Tensor) -> Tensor:
    """All left singular vectors, those of the largest values first.

    Of long float32 matrices they are eigenvectors of X X^T in float64, whose squared condition
    float64 bears: as exact, in a third of the time or less.
    """
    rows, columns = x.shape[-2:]
    if x.dtype == torch.float32 and columns >= 2 * rows and x.device.type != "mps":
        wide = x.double()  # (batch, rows, columns)
        return decompositions.eigh(wide @ wide.mT)[1].flip(-1).to(x.dtype)  # (batch, rows, rows)
    return decompositions.svd(x, full_matrices=False)[0]
