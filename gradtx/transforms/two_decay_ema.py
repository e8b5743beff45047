"""An average of updates that is read with another decay than it is kept with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..codecs import Codec, as_codec, first_moment_codec
from ..core.averages import average
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo
from ..core.state import advance, new_count
from ..core.transform import LeafTransform
from .momentum import EmaState


@dataclass(frozen=True)
class two_decay_ema(LeafTransform):
    """Average of updates with two decays: ``b3 m + (1 - b3) u``, then ``m <- b1 m + (1 - b1) u``.

    With ``debias`` the update is divided by ``1 - b3 b1^(t - 1)``. b3 = b1 is ``gx.ema``,
    b3 = b1^2 its Nesterov form.

    Args:
        b1: decay that m is kept with, in [0, 1).
        b3: decay of the update, in [0, 1).
        debias: correct for the average having started at zero.
        codec: how m is kept between steps: a codec, a dtype, or None for at least float32.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2309.06497.

    >>> import torch, gradtx as gx
    >>> tx = gx.two_decay_ema(0.9, 0.5, debias=False)
    >>> tx.update({"w": torch.ones(1)}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([0.5000])}
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b3: Hyper = dynamic(0.81, within="[0, 1)")
    debias: bool = static(True)
    codec: Codec | torch.dtype | None = static(None)

    def init_leaf(self, p: Tensor, info: LeafInfo) -> EmaState:
        step = new_count([p]) if self.debias else ()
        return EmaState(step, as_codec(self.codec).init(p, signed=True))

    def update_leaf(
        self, u: Tensor, s: EmaState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, EmaState]:
        codec = first_moment_codec(self.codec)
        old = codec.decode(s.ema, u)
        out, step = average(old, u, h.b3), s.step
        if isinstance(step, Tensor):
            out = out / (1 - h.b3 * h.b1 ** step.to(u.dtype))
            step = advance(step)
        return out, EmaState(step, codec.encode(average(old, u, h.b1), s.ema))
