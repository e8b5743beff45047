"""AdaBelief: the second moment of the surprise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, as_codec, codec_field, first_moment_codec, first_moment_of
from ..core.averages import average, average_square, corrected_mean
from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo
from ..core.roles import FirstMoment, SecondMoment
from ..core.roots import divide_by_root
from ..core.state import advance, new_count
from ..core.transform import LeafTransform


class ScaleByBeliefState(NamedTuple):
    """State of ``scale_by_belief``.

    Attributes:
        step: int32, updates done for this leaf.
        mu: average of updates, as its codec keeps it.
        nu: average of squared differences between updates and mu, as its codec keeps it.
    """

    step: Tensor
    mu: FirstMoment
    nu: SecondMoment


@dataclass(frozen=True)
class scale_by_belief(LeafTransform):
    """Divide the average of updates by how far updates stray from it.

    m <- b1 m + (1 - b1) u;  v <- b2 v + (1 - b2) (u - m)^2 + eps_root;
    update = m' / (sqrt(v / (1 - b2^t)) + eps) with m' as in Adam.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added outside the root.
        eps_root: added to the second moment at every update.
        nesterov: look one step ahead.
        mu_codec: how m is kept between steps: a codec, a dtype, or None for at least float32.
        nu_codec: how v is kept.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2010.07468.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_belief(b1=0.5)
    >>> tx.update({"w": torch.tensor([2.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([2.])}
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1)")
    eps: Hyper = dynamic(1e-16, within="[0, inf)")
    eps_root: Hyper = dynamic(1e-16, within="[0, inf)")
    nesterov: bool = static(False)
    mu_codec: Codec | torch.dtype | None = codec_field()
    nu_codec: Codec | torch.dtype | None = codec_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByBeliefState:
        mu = as_codec(self.mu_codec).init(p, signed=True)
        nu = as_codec(self.nu_codec).init(p, signed=False)
        return ScaleByBeliefState(new_count([p]), mu, nu)

    def update_leaf(
        self, u: Tensor, s: ScaleByBeliefState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByBeliefState]:
        step = advance(s.step)
        mu_codec, nu_codec = first_moment_codec(self.mu_codec), as_codec(self.nu_codec)
        second = nu_codec.decode(s.nu, u)
        # What eps_root alone adds up to, and a little more: these are no surprises yet.
        nothing = 1.01 * h.eps_root * one_minus_power(h.b2, s.step, u.dtype) / (1 - h.b2)
        mu = average(first_moment_of(mu_codec, s.mu, u, second, nothing), u, h.b1)
        surprise = u - mu
        nu = average_square(second, surprise, h.b2) + h.eps_root
        mean = corrected_mean(mu, u, h.b1, step, self.nesterov)
        out = divide_by_root(mean, nu / one_minus_power(h.b2, step, u.dtype), h.eps)
        return out, ScaleByBeliefState(step, mu_codec.encode(mu, s.mu), nu_codec.encode(nu, s.nu))
