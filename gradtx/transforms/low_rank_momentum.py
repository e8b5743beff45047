"""Momentum from which only what a step uses decays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, Encoding, as_codec, codec_field, first_moment_codec
from ..compressors import Compressor
from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import LeafInfo, add_leaf
from ..core.transform import LeafTransform
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
