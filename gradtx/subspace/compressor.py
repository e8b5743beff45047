"""A subspace as a compressor, for error feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..compressors import Compressor, Payload
from ..core.leaves import LeafInfo
from . import leaf as leaf_
from .leaf import Where, Whole
from .projector import Projector
from .refresh import Refresh, zero_based


@dataclass(frozen=True, repr=False)
class projection(Compressor):
    """Keep the projection of matrices onto a subspace; ``gx.error_feedback`` remembers the rest.

    Leaves that are no matrices are kept whole.

    Args:
        projector: what the subspace is, with one orthonormal basis.
        refresh: when it is chosen anew.
        where: predicate on ``LeafInfo``, which matrices are projected; default all.

    Raises:
        TypeError: a projector or policy of another type.
        ValueError: a basis that is not orthonormal, whose complement would be no residual.

    >>> import torch, gradtx as gx
    >>> c = gx.subspace.projection(gx.subspace.top_norm(1))
    >>> tx = gx.chain(gx.error_feedback(c), gx.lift())
    >>> params = {"w": torch.tensor([[3.0], [2.0]])}
    >>> updates, state = tx.update(params, tx.init(params))
    >>> updates["w"].tolist(), state["error_feedback"].leaves["w"].error.tolist()
    ([[3.0], [0.0]], [[0.0], [2.0]])
    """

    projector: Projector
    refresh: Refresh = zero_based(200)
    where: Where | None = None

    def __post_init__(self) -> None:
        if not self.projector.orthonormal:
            raise ValueError(f"projection: the basis of {self.projector!r} is not orthonormal")

    def init(self, p: Tensor, name: str = "") -> Any:
        return leaf_.init(self.projector, self.refresh, self.where, p, LeafInfo.of(p, name))

    def compress(self, x: Tensor, state: Any) -> tuple[Payload, Any]:
        if isinstance(state, Whole):
            return x, state
        turn = leaf_.turn(self.projector, self.refresh, state, x)
        z = self.projector.project(turn.new.projector, x)
        return self.projector.low_rank_update(turn.new.projector, z, tuple(x.shape)), turn.new
