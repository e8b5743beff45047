"""Nearly the leading singular vectors, from a random sketch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.fields import static
from .dense import SketchProjector
from .orthonormal import orthonormal
from .projector import canonical
from .svd import left_vectors
from .view import View


@dataclass(frozen=True, repr=False)
class randomized_svd(SketchProjector):
    """Singular vectors of what a random sketch of the gradient spans.

    Q0 = qr(X W) with a normal W of rank + oversample columns; ``power_iterations`` times
    Q0 = qr(X (X^T Q0)); then Q0 times the first left singular vectors of Q0^T X.

    Args:
        rank: number of vectors, at most the smaller dimension of the matrix.
        side: see ``svd``.
        clip_rank: take the largest possible rank where ``rank`` is larger.
        matricize: take leaves with more than two dimensions as first against all others.
        seed: of W.
        oversample: additional columns, >= 0; fewer where the matrix has no more.
        power_iterations: >= 0.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 0909.4061.

    >>> import torch, gradtx as gx
    >>> projector, g = gx.subspace.randomized_svd(1), torch.diag(torch.tensor([1.0, -5.0]))
    >>> projector.refresh(projector.init(g), g, first=True).basis.abs().round(decimals=4)
    tensor([[0.],
            [1.]])
    """

    oversample: int = static(2, at_least=0)
    power_iterations: int = static(1, at_least=0)

    def width(self, view: View) -> int:
        return min(view.rank + self.oversample, view.rows, view.columns)

    def vectors(self, x: Tensor, states: list[Any], view: View) -> Tensor:
        q = orthonormal(self.sketch(x, states, view))  # (batch, size, width)
        for _ in range(self.power_iterations):
            q = orthonormal(x @ (x.mT @ q))
        return canonical((q @ left_vectors(q.mT @ x))[..., : view.rank])
