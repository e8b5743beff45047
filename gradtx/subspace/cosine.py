"""The strongest frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .. import ops
from ..core.fields import static
from .one_sided import OneSided
from .projector import keep_if_bad
from .selection import Selected, row_norms
from .view import View


def cosines(positions: Tensor, frequencies: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Entries (positions, frequencies) of the orthonormal basis of the DCT-II."""
    # The angle is reduced in integers, which keeps large sizes exact.
    turns = ((2 * positions[:, None] + 1) * frequencies) % (4 * size)
    c = torch.cos(turns.to(torch.float64) * (math.pi / (2 * size)))
    length = torch.full_like(c[:1], math.sqrt(2 / size))
    return (c * torch.where(frequencies == 0, math.sqrt(1 / size), length)).to(dtype)


@dataclass(frozen=True, repr=False)
class dct(OneSided):
    """The vectors of a cosine basis along which the gradient is largest, largest first.

    S = C^T X; Q = C[:, the rows of S with the largest norms]. C[i, j] = sqrt(2/d) c_j
    cos(pi (2i + 1) j / (2d)), c_0 = sqrt(1/2), otherwise c_j = 1. Nothing but indices is kept.

    Args:
        rank: how many, at most the size of the compressed dimension.
        side: see ``svd``.
        clip_rank: take the largest possible rank where ``rank`` is larger.
        matricize: take leaves with more than two dimensions as first against all others.
        kind: 2 for C, 3 for its transpose.
        p: the norm is the p-norm, > 0.
        order: of the vectors that are taken: by "score", or by "index".

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2505.17967.

    >>> import torch, gradtx as gx
    >>> projector, g = gx.subspace.dct(1), torch.ones(2, 3)
    >>> state = projector.refresh(projector.init(g), g)
    >>> state.indices, projector.project(state, g)
    (tensor([0]), tensor([[1.4142, 1.4142, 1.4142]]))
    """

    kind: Literal[2, 3] = 2
    p: float = static(1.0, within="(0, inf)")
    order: Literal["score", "index"] = "score"

    def init(self, p: Tensor, name: str = "") -> Selected:
        rank = self.view(p.shape, name).rank
        return Selected(torch.arange(rank, dtype=torch.int64, device=p.device))

    def fresh(self, state: Any, x: Tensor, view: View, first: Tensor | bool) -> Selected:
        spectrum = ops.rotate(x, f"dct{self.kind}", "left")
        score = row_norms(spectrum, self.p)
        indices = score.argsort(descending=True, stable=True)[: view.rank]
        if self.order == "index":
            indices = indices.sort().values
        return Selected(keep_if_bad(indices, state.indices, x, first))

    def basis(self, state: Any, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        size, wide = self.view(shape).size, dtype or torch.float32
        every = torch.arange(size, dtype=torch.int64, device=state.indices.device)
        if self.kind == 2:
            return cosines(every, state.indices, size, wide)
        return cosines(state.indices, every, size, wide).mT
