"""Updates of one size: signs, plain and of Lion's interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, as_codec, codec_field, first_moment_codec
from ..core.averages import average
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo
from ..core.roles import FirstMoment
from ..core.signs import sign
from ..core.transform import LeafTransform


@dataclass(frozen=True)
class scale_by_sign(LeafTransform):
    """Replace updates by their signs; zero stays zero, NaN stays NaN.

    Source: arXiv 1802.04434.

    >>> import torch, gradtx as gx
    >>> gx.scale_by_sign().update({"w": torch.tensor([0.5, 0.0, -3.0])}, ())[0]
    {'w': tensor([ 1.,  0., -1.])}
    """

    def update_leaf(self, u: Tensor, s: Any, p: Tensor | None, h: Values) -> tuple[Tensor, Any]:
        return sign(u), s


class ScaleByLionState(NamedTuple):
    """Attributes: ``mu``, average of updates, as its codec keeps it."""

    mu: FirstMoment


@dataclass(frozen=True)
class scale_by_lion(LeafTransform):
    """The sign of an interpolation between momentum and update.

    update = sign(b1 m + (1 - b1) u), then m <- b2 m + (1 - b2) u.

    Args:
        b1: weight of the momentum in the update, in [0, 1).
        b2: decay of the momentum, in [0, 1).
        mu_codec: how m is kept between steps: a dtype or a codec (``gx.codecs``); None for at least
            float32.
        mode: "hard" takes the sign of the interpolation c, "smooth" tanh(smooth_beta c), "refined"
            c itself where it is smaller than 1.
        smooth_beta: slope of the smooth form at zero, > 0.

    Raises:
        ValueError: a value outside its interval, or an unknown ``mode``.
        TypeError: neither a codec nor a dtype.

    Source: arXiv 2302.06675.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_lion()
    >>> tx.update({"w": torch.tensor([2.0, -0.1])}, tx.init({"w": torch.zeros(2)}))[0]
    {'w': tensor([ 1., -1.])}
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.99, within="[0, 1)")
    mu_codec: Codec | torch.dtype | None = codec_field()
    mode: str = static("hard", choices=("hard", "smooth", "refined"))
    smooth_beta: float = static(1.0, within="(0, inf)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByLionState:
        return ScaleByLionState(as_codec(self.mu_codec).init(p, signed=True))

    def update_leaf(
        self, u: Tensor, s: ScaleByLionState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByLionState]:
        codec = first_moment_codec(self.mu_codec)
        mu = codec.decode(s.mu, u)
        out = self._limited(average(mu, u, h.b1))
        return out, ScaleByLionState(codec.encode(average(mu, u, h.b2), s.mu))

    def _limited(self, c: Tensor) -> Tensor:
        if self.mode == "smooth":
            return torch.tanh(self.smooth_beta * c)
        return torch.where(c.abs() < 1, c, sign(c)) if self.mode == "refined" else sign(c)
