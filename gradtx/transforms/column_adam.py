"""Adam on chosen columns or rows of matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..compressors import top_columns
from ..core.errors import TreeMismatchError
from ..core.execution import Execution
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo, LowRankUpdate
from ..core.roles import FirstMoment, SecondMoment
from ..core.state import advance, new_count, state_zeros
from ..core.transform import LeafTransform
from ..ops.column_adam import column_adam, moments
from ..ops.coordinates import is_plain


class ScaleByColumnAdamState(NamedTuple):
    """State of ``scale_by_column_adam``.

    Attributes:
        step: int32, updates done for this leaf.
        mu: average of the chosen columns (rows, k) or rows (k, columns).
        nu: average of their squares.
        indices: int32 (k,), which ones they are, ascending.
    """

    step: Tensor
    mu: FirstMoment
    nu: SecondMoment
    indices: Tensor


@dataclass(frozen=True)
class scale_by_column_adam(LeafTransform):
    """Adam on columns or rows that may be others at every update.

    The update of ``gx.scale_by_adam`` for the columns that ``gx.compressors.top_columns`` has
    chosen; it stays a low-rank update. The moments of a column that is chosen again go with it,
    those of a new one start at zero, those of others are forgotten.

    Args:
        columns: what chooses the columns.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, > 0.
        transfer: False leaves moments at their places, whatever column is there.

    Raises:
        ValueError: a value outside its interval, or an update that is not of chosen columns.

    Source: arXiv 2505.17967.

    >>> import torch, gradtx as gx
    >>> columns = gx.compressors.top_columns(1)
    >>> tx = gx.chain(gx.compress(columns), gx.scale_by_column_adam(columns), gx.densify())
    >>> u = {"w": torch.tensor([[1.0, 5.0], [2.0, 3.0]])}
    >>> tx.update(u, tx.init(u))[0]["w"]
    tensor([[0., 1.],
            [0., 1.]])
    """

    execution: ClassVar[Execution] = Execution(cannot_raise=True)
    accepts: ClassVar[tuple[type, ...]] = (Tensor, LowRankUpdate)

    columns: top_columns = static()
    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1)")
    eps: Hyper = dynamic(1e-8, within="(0, inf)")
    transfer: bool = static(True)

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByColumnAdamState:
        shape = tuple(p.shape)
        k = self.columns.kept(shape)
        kept = (shape[0], k) if self.columns.axis(shape) == 1 else (k, shape[1])
        indices = torch.arange(k, dtype=torch.int32, device=p.device)
        mu = state_zeros(p.new_empty(kept))
        return ScaleByColumnAdamState(new_count([p]), mu, torch.zeros_like(mu), indices)

    def update_leaf(
        self, u: Any, s: ScaleByColumnAdamState, p: Tensor | None, h: Values
    ) -> tuple[LowRankUpdate, ScaleByColumnAdamState]:
        now = _chosen(u)
        if now is None:
            raise ValueError(
                f"{self.name}: takes updates of chosen columns; put gx.compress before"
            )
        x = u.factor
        if x.shape != s.mu.shape or now.shape != s.indices.shape:
            raise TreeMismatchError(
                f"{self.name}: chosen columns of shape {tuple(x.shape)} do not fit the state's "
                f"{tuple(s.mu.shape)}"
            )
        mu, nu, step = s.mu.to(x.dtype), s.nu.to(x.dtype), advance(s.step)
        args = x, mu, nu, s.indices, now, step, h.b1, h.b2, h.eps
        numbers = all(isinstance(v, float) for v in (h.b1, h.b2, h.eps))
        adam = column_adam if numbers and is_plain(x, mu, nu) else moments
        out, mu, nu = adam(*args, 1 if u.side == "right" else 0, self.transfer)
        new = ScaleByColumnAdamState(step, mu, nu, now.to(s.indices.dtype))
        return LowRankUpdate(out, u.basis, u.shape, u.side, u.chosen), new


def _chosen(u: Any) -> Tensor | None:
    """Which columns or rows, or which vectors of a basis, an update consists of."""
    if not isinstance(u, LowRankUpdate):
        return None
    return u.chosen if u.basis.is_floating_point() else u.basis
