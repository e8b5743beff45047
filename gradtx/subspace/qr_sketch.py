"""The span of a random sketch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .dense import SketchProjector
from .projector import canonical, finite_or_zero, keep_if_bad
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

    def sketched(self, state: Any, x: Tensor, view: View, first: Tensor | bool) -> Tensor:
        q = torch.linalg.qr(finite_or_zero(x) @ self.omega(state.key, x, view)).Q
        return keep_if_bad(canonical(q), state.basis, x, first)
