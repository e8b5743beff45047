"""Momentum in a subspace, the plain gradient outside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, as_codec, codec_field, first_moment_codec
from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo
from ..core.roles import FirstMoment
from ..core.state import advance, new_count
from ..core.transform import LeafTransform
from . import leaf as leaf_
from .leaf import SubspaceLeaf, Turn, Where, Whole
from .projector import Projector
from .refresh import Refresh, one_based

_POLICIES = ("reset", "keep", "rotate", "stale")


class SubspaceMomentumState(NamedTuple):
    """State of ``subspace_momentum``.

    Attributes:
        subspace: a ``SubspaceLeaf``, or ``Whole`` for leaves with ordinary momentum.
        step: int32, updates done for this leaf; () without debiasing.
        mu: average of coordinates, as its codec keeps it.
    """

    subspace: Any
    step: Tensor | tuple[()]
    mu: FirstMoment


@dataclass(frozen=True)
class subspace_momentum(LeafTransform):
    """Momentum for what lies in a subspace; what lies outside passes as it is.

    z = Q^T u;  m <- b1 m + (1 - b1) z;  update = Q m + (u - Q z). Leaves that are no matrices have
    ordinary momentum m <- b1 m + (1 - b1) u.

    Args:
        projector: what the subspace is, one of ``gx.subspace``.
        b1: decay of the average, in [0, 1).
        refresh: when the subspace is chosen anew, a policy of ``gx.subspace``.
        on_refresh: what becomes of m then: it starts from zero ("reset"), keeps its coordinates
            ("keep"), moves along by R = Q_new^T Q_old ("rotate"), or is used once more and then
            forgotten together with the newest gradient ("stale", as published).
        debias: divide m by 1 - b1^t. ``gx.undo_bias`` after it would also divide what lies outside.
        codec: how m is kept between steps: a codec, a dtype, or None for at least float32.
        where: predicate on ``LeafInfo``, which matrices are projected; default all.

    Raises:
        ValueError: a value outside its interval or an unknown policy; at ``init`` a rank that is
            too large.
        TypeError: a projector, policy or codec of another type.

    Source: arXiv 2411.07120.

    >>> import torch, gradtx as gx
    >>> tx = gx.subspace_momentum(gx.subspace.top_norm(1), b1=0.5)
    >>> g = {"w": torch.tensor([[8.0], [1.0]])}
    >>> tx.update(g, tx.init(g))[0]["w"].tolist()
    [[4.0], [1.0]]
    """

    projector: Projector = static()
    b1: Hyper = dynamic(0.9, within="[0, 1)")
    refresh: Refresh = static(one_based(200))
    on_refresh: str = static("reset", choices=_POLICIES)
    debias: bool = static(False)
    codec: Codec | torch.dtype | None = codec_field()
    where: Where | None = static(None)

    def init_leaf(self, p: Tensor, info: LeafInfo) -> SubspaceMomentumState:
        subspace = leaf_.init(self.projector, self.refresh, self.where, p, info)
        like = p
        if isinstance(subspace, SubspaceLeaf):
            like = p.new_zeros(self.projector.factor_shape(info.shape))
        step = new_count([p]) if self.debias else ()
        return SubspaceMomentumState(subspace, step, as_codec(self.codec).init(like, signed=True))

    def precompute(self, updates: list[Any], states: list[Any]) -> dict[str, list[Any]]:
        return {"turn": leaf_.turns_of(self.projector, self.refresh, states, updates)}

    def update_leaf(
        self, u: Tensor, s: SubspaceMomentumState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, SubspaceMomentumState]:
        codec, step = first_moment_codec(self.codec), s.step
        gathered: Tensor | float = 1.0
        if isinstance(step, Tensor):
            step = advance(step)
            gathered = one_minus_power(h.b1, step, u.dtype)
        if isinstance(s.subspace, Whole):
            mu = h.b1 * codec.decode(s.mu, u) + (1 - h.b1) * u
            return mu / gathered, SubspaceMomentumState(s.subspace, step, codec.encode(mu, s.mu))
        turn = h.turn
        z = self.projector.project(turn.new.projector, u)
        old = self._carried(codec.decode(s.mu, z), s.subspace, turn, u)
        mu = h.b1 * old + (1 - h.b1) * z
        # Q m + (u - Q z) with one product.
        out = self.projector.add_back(turn.new.projector, u, mu / gathered - z)
        if self.on_refresh == "stale" and turn.due is not False:
            mu = torch.where(turn.moved, torch.zeros_like(mu), mu)
        return out, SubspaceMomentumState(turn.new, step, codec.encode(mu, s.mu))

    def _carried(self, mu: Tensor, old: SubspaceLeaf, turn: Turn, u: Tensor) -> Tensor:
        """The average in the coordinates of this step."""
        if self.on_refresh in ("keep", "stale") or turn.due is False:
            return mu
        if self.on_refresh == "reset":
            return torch.where(turn.moved, torch.zeros_like(mu), mu)
        rotation = self.projector.rotation(
            old.projector, turn.new.projector, tuple(u.shape), u.dtype
        )
        return torch.where(turn.moved, rotation.first(mu), mu)
