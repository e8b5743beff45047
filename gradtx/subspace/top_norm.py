"""The largest rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..core.fields import static
from .projector import keep_if_bad
from .selection import Selected, SelectionProjector, row_norms
from .view import View


@dataclass(frozen=True, repr=False)
class top_norm(SelectionProjector):
    """The rows (or columns) of the gradient with the largest norms, largest first.

    Args:
        rank: how many, at most the size of the compressed dimension.
        side: see ``svd``; "larger" by default, so that little is kept.
        clip_rank: take the largest possible rank where ``rank`` is larger.
        matricize: take leaves with more than two dimensions as first against all others.
        p: the norm is the p-norm, > 0.
        order: of the rows that are taken: by "score", or by "index".

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2411.07120.

    >>> import torch, gradtx as gx
    >>> projector, g = gx.subspace.top_norm(2), torch.tensor([[1.0], [-3.0], [2.0]])
    >>> projector.refresh(projector.init(g), g).indices
    tensor([1, 2])
    """

    p: float = static(2.0, within="(0, inf]")
    order: Literal["score", "index"] = "score"

    def fresh(self, state: Any, x: Tensor, view: View, first: Tensor | bool) -> Selected:
        score = row_norms(x, self.p)
        indices = score.argsort(descending=True, stable=True)[: view.rank]
        if self.order == "index":
            indices = indices.sort().values
        return Selected(keep_if_bad(indices, state.indices, x, first))
