"""SMMF's quotient of moments whose decays change with the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, as_codec, codec_field, first_moment_codec, rank1
from ..core.averages import average, average_square
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo
from ..core.roles import FirstMoment, SecondMoment
from ..core.roots import divide_by_root
from ..core.state import advance, new_count
from ..core.transform import LeafTransform


class ScaleBySmmfState(NamedTuple):
    """State of ``scale_by_smmf``.

    Attributes:
        step: int32, updates done for this leaf.
        mu: average of updates, as its codec keeps it; () without momentum.
        nu: average of squared updates, as its codec keeps it.
    """

    step: Tensor
    mu: FirstMoment
    nu: SecondMoment


@dataclass(frozen=True)
class scale_by_smmf(LeafTransform):
    """Divide an average of updates by the root of an average of squares, both kept factored.

    m <- b_t m + (1 - b_t) u with b_t = beta growth_rate^(t-1);
    v <- c_t v + (1 - c_t) u^2 with c_t = 1 - t^decay_rate;  update = m / (sqrt(v) + eps).

    From updates of about 1e19 on, whose squares overflow float32, factors of the second moment are
    infinite and what they multiply to NaN, where a dense moment gives zero steps.

    Args:
        beta: first decay of m, in [0, 1); ignored without momentum.
        eps: added to the root, >= 0.
        decay_rate: exponent in [-1, 0]; -0.5 for convolutional networks, -0.8 for transformers.
        growth_rate: factor of beta from step to step, in [0, 1].
        momentum: keep m; otherwise the updates themselves are divided.
        codec: how m and v are kept between steps.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2412.08894.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_smmf(beta=0.75)
    >>> tx.update({"w": torch.tensor([2.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([0.2500])}
    """

    beta: Hyper = dynamic(0.9, within="[0, 1)")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")
    decay_rate: Hyper = dynamic(-0.5, within="[-1, 0]")
    growth_rate: Hyper = dynamic(0.999, within="[0, 1]")
    momentum: bool = static(True)
    codec: Codec | torch.dtype | None = codec_field(rank1())

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleBySmmfState:
        codec = as_codec(self.codec)
        mu = codec.init(p, signed=True) if self.momentum else ()
        return ScaleBySmmfState(new_count([p]), mu, codec.init(p, signed=False))

    def update_leaf(
        self, u: Tensor, s: ScaleBySmmfState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleBySmmfState]:
        codec = as_codec(self.codec)
        step = advance(s.step)
        age = step.to(u.dtype)
        nu = average_square(codec.decode(s.nu, u), u, 1 - age**h.decay_rate)
        out: Tensor = u
        mu: Any = ()
        if self.momentum:
            first = first_moment_codec(self.codec)
            out = average(first.decode(s.mu, u), u, h.beta * h.growth_rate ** (age - 1))
            mu = first.encode(out, s.mu)
        new = ScaleBySmmfState(step, mu, codec.encode(nu, s.nu))
        return divide_by_root(out, nu, h.eps), new
