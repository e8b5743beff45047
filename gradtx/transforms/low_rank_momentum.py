"""Momentum from which only what a step uses decays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, Encoding, as_codec, codec_field, dense, first_moment_codec
from ..compressors import Compressor, top_columns
from ..core import tree
from ..core.declared import Call, with_fields_of
from ..core.errors import shape_mismatch
from ..core.execution import Execution
from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import LeafInfo, LowRankUpdate, add_leaf
from ..core.transform import LeafTransform
from ..core.tree import PyTree
from .compress import compressor_field


class LowRankMomentumState(NamedTuple):
    """State of ``low_rank_momentum``.

    Attributes:
        momentum: what has not been used up, as its codec keeps it.
        compressor: the compressor's state, () if it has none.
    """

    momentum: Encoding
    compressor: Any


@dataclass(frozen=True)
class low_rank_momentum(LeafTransform):
    """Sum up matrices, pass on what a compressor keeps of the sum, and let only that decay.

    b = m + u; the update is C(b); m <- b - (1 - decay) C(b). What C leaves out stays for later
    updates, as in error feedback. What goes on is a low-rank update for ``gx.orthogonalize`` and
    others that understand it; ``gx.densify`` ends it.

    Args:
        compressor: C: ``gx.compressors.power_iteration`` (Dion), ``top_columns`` (Dion2, and behind
            ``gx.in_basis`` Trion), or another one for matrices.
        decay: what is left of the used part, in [0, 1].
        codec: how m is kept between steps: a codec, a dtype, or None for at least float32.

    Raises:
        ValueError: ``decay`` outside its interval, or a leaf that is no matrix.
        TypeError: not a compressor.

    Source: arXiv 2504.05295, arXiv 2505.17967.

    >>> import torch, gradtx as gx
    >>> tx = gx.chain(gx.low_rank_momentum(gx.compressors.top_columns(1), 0.5), gx.densify())
    >>> state = tx.init({"w": torch.zeros(2, 2)})
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.tensor([[4.0, 3.0], [0.0, 0.0]])}, state)
    >>> updates["w"]
    tensor([[6., 0.],
            [0., 0.]])
    """

    execution: ClassVar[Execution] = Execution(low_rank_form=lambda tx: tx.low_rank_form())

    compressor: Compressor = compressor_field()
    decay: Hyper = dynamic(0.95, within="[0, 1]", momentum=True)
    codec: Codec | torch.dtype | None = codec_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> LowRankMomentumState:
        if p.ndim != 2:
            raise ValueError(
                f"{self.name}: leaf {info.name!r} of shape {tuple(p.shape)} is no matrix; use "
                "gx.as_matrices for more dimensions, gx.partition for vectors"
            )
        momentum = as_codec(self.codec).init(p, signed=True)
        return LowRankMomentumState(momentum, self.compressor.init(p, info.name))

    def update_leaf(
        self, u: Tensor, s: LowRankMomentumState, p: Tensor | None, h: Values
    ) -> tuple[Any, LowRankMomentumState]:
        codec = first_moment_codec(self.codec)
        total = codec.decode(s.momentum, u) + u
        payload, compressor = self.compressor.compress(total, s.compressor)
        rest = add_leaf(total, payload, h.decay - 1)
        return payload, LowRankMomentumState(codec.encode(rest, s.momentum), compressor)

    def low_rank_form(self) -> low_rank_momentum | None:
        """The same transform for executors, which overwrites sums of which columns are chosen."""
        columns = type(self.compressor) is top_columns and self.compressor.basis is None
        kept = type(as_codec(self.codec)) is dense
        return with_fields_of(self, _InPlace) if columns and kept else None


@dataclass(frozen=True)
class _InPlace(low_rank_momentum):
    """Sums stay where they lie."""

    execution: ClassVar[Execution] = Execution(cannot_raise=True)

    @property
    def name(self) -> str:
        return "low_rank_momentum"

    def _update(self, call: Call, state: PyTree, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
        # Before anything is overwritten.
        for u, s, name in zip(
            call.updates,
            tree.flatten_like(self.name, call.spec, state, "state"),
            call.names,
            strict=True,
        ):
            if u is not None and (s == () or s.momentum.shape != u.shape):
                shape = () if s == () else s.momentum.shape
                raise shape_mismatch(self.name, name, "update", u.shape, "state momentum", shape)
        return super()._update(call, state, values)

    def update_leaf(
        self, u: Tensor, s: LowRankMomentumState, p: Tensor | None, h: Values
    ) -> tuple[Any, LowRankMomentumState]:
        total: Any = s.momentum
        if total.dtype != u.dtype:
            return super().update_leaf(u, s, p, h)
        total.add_(u)
        payload, compressor = self.compressor.compress(total, s.compressor)
        assert isinstance(payload, LowRankUpdate)
        dim = -1 if payload.side == "right" else -2
        total.index_add_(dim, payload.basis, (h.decay - 1) * payload.factor)
        return payload, LowRankMomentumState(total, compressor)
