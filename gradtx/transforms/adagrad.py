"""Adagrad's sum of squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, Encoding, as_codec, codec_field
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo
from ..core.transform import LeafTransform


class ScaleByRssState(NamedTuple):
    """Attributes: ``sum_of_squares``, of all updates so far, as its codec keeps it."""

    sum_of_squares: Encoding


@dataclass(frozen=True)
class scale_by_rss(LeafTransform):
    """Divide updates by the root of the sum of all their squares so far.

    s <- s + u^2; update = u / sqrt(s + eps), or u / (sqrt(s) + eps); zero where s is zero.

    Args:
        initial_accumulator_value: first value of s, >= 0.
        eps: added to the denominator.
        eps_in_sqrt: add eps inside the root (Optax) or outside (torch.optim).
        codec: how s is kept between steps: a codec, a dtype, or None for at least float32. Codes of
            few bits, bfloat16 too, lose squares that are small beside s; ``rank1`` keeps their
            sums.

    Raises:
        ValueError: a value outside its interval.

    Source: Duchi, Hazan and Singer, JMLR 12, 2011.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_rss(initial_accumulator_value=16.0)
    >>> tx.update({"w": torch.tensor([3.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([0.6000])}
    """

    initial_accumulator_value: float = static(0.1, within="[0, inf)")
    eps: Hyper = dynamic(1e-7, within="[0, inf)")
    eps_in_sqrt: bool = static(True)
    codec: Codec | torch.dtype | None = codec_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByRssState:
        first = self.initial_accumulator_value
        return ScaleByRssState(as_codec(self.codec).init_full(p, first, signed=False))

    def update_leaf(
        self, u: Tensor, s: ScaleByRssState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByRssState]:
        codec = as_codec(self.codec)
        total = codec.decode(s.sum_of_squares, u) + u * u
        eps = h.eps
        unseen = total == 0
        # The inner choice keeps the root's infinite derivative at zero out of derivatives.
        safe = torch.where(unseen, torch.ones_like(total), total)
        root = torch.sqrt(safe + eps) if self.eps_in_sqrt else torch.sqrt(safe) + eps
        out = torch.where(unseen, torch.zeros_like(u), u / root)
        return out, ScaleByRssState(codec.encode(total, s.sum_of_squares))
