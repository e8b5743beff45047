"""Adam with the infinity norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, as_codec, codec_field, first_moment_codec, first_moment_of
from ..core.averages import average, corrected_mean
from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import LeafInfo
from ..core.roles import FirstMoment, SecondMoment
from ..core.roots import nonzero
from ..core.state import advance, new_count
from ..core.transform import LeafTransform


class ScaleByAdamaxState(NamedTuple):
    """State of ``scale_by_adamax``.

    Attributes:
        step: int32, updates done for this leaf.
        mu: average of updates, as its codec keeps it.
        nu: decaying maximum of absolute updates, as its codec keeps it.
    """

    step: Tensor
    mu: FirstMoment
    nu: SecondMoment


@dataclass(frozen=True)
class scale_by_adamax(LeafTransform):
    """Divide the average of updates by the decaying maximum of their absolute values.

    m <- b1 m + (1 - b1) u;  v <- max(b2 v, |u| + eps);  update = m / ((1 - b1^t) v).

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the maximum, in [0, 1).
        eps: added to the absolute updates.
        mu_codec: how m is kept between steps: a codec, a dtype, or None for at least float32.
        nu_codec: how v is kept.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1412.6980, section 7.1.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_adamax(eps=2.0)
    >>> tx.update({"w": torch.tensor([2.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([0.5000])}
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1)")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")
    mu_codec: Codec | torch.dtype | None = codec_field()
    nu_codec: Codec | torch.dtype | None = codec_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByAdamaxState:
        mu = as_codec(self.mu_codec).init(p, signed=True)
        nu = as_codec(self.nu_codec).init(p, signed=False)
        return ScaleByAdamaxState(new_count([p]), mu, nu)

    def update_leaf(
        self, u: Tensor, s: ScaleByAdamaxState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByAdamaxState]:
        step = advance(s.step)
        mu_codec, nu_codec = first_moment_codec(self.mu_codec), as_codec(self.nu_codec)
        second = nu_codec.decode(s.nu, u)
        eps = nonzero(h.eps, u.dtype)
        mu = average(first_moment_of(mu_codec, s.mu, u, second, eps), u, h.b1)
        nu = torch.maximum(h.b2 * second, u.abs() + eps)
        out = corrected_mean(mu, u, h.b1, step) / nu
        return out, ScaleByAdamaxState(step, mu_codec.encode(mu, s.mu), nu_codec.encode(nu, s.nu))
