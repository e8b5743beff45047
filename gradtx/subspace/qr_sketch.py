"""The span of a random sketch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .dense import SketchProjector
from .orthonormal import orthonormal
from .view import View


@dataclass(frozen=True, repr=False)
class qr_sketch(SketchProjector):
    """Orthonormal columns of the gradient times a random matrix: Q = qr(X W).

    Args:
        rank: number of vectors, at most the smaller dimension of the matrix.
        side: see ``svd``.
        clip_rank: take the largest possible rank where ``rank`` is larger.
        matricize: take leaves with more than two dimensions as first against all others.
        seed: of W, normal numbers.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 0909.4061.

    >>> import torch, gradtx as gx
    >>> projector, g = gx.subspace.qr_sketch(1), torch.tensor([[3.0, -3.0], [4.0, -4.0]])
    >>> projector = gx.subspace.qr_sketch(1, side="left")
    >>> projector.refresh(projector.init(g), g, first=True).basis.round(decimals=4)
    tensor([[0.6000],
            [0.8000]])
    """

    def vectors(self, x: Tensor, states: list[Any], view: View) -> Tensor:
        return orthonormal(self.sketch(x, states, view))
