"""Yogi: a second moment that changes additively."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, as_codec, codec_field, first_moment_codec, first_moment_of
from ..core.averages import average, corrected_mean
from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo
from ..core.roles import FirstMoment, SecondMoment
from ..core.roots import divide_by_root
from ..core.signs import sign
from ..core.state import advance, new_count
from ..core.transform import LeafTransform


class ScaleByYogiState(NamedTuple):
    """State of ``scale_by_yogi``.

    Attributes:
        step: int32, updates done for this leaf.
        mu: average of updates, as its codec keeps it.
        nu: second moment, as its codec keeps it.
    """

    step: Tensor
    mu: FirstMoment
    nu: SecondMoment


@dataclass(frozen=True)
class scale_by_yogi(LeafTransform):
    """Adam's moments, the second one moving by at most ``(1 - b2) u^2`` at an update.

    m <- b1 m + (1 - b1) u;  v <- v - (1 - b2) sign(v - u^2) u^2;
    update = m' / (sqrt(v' + eps_root) + eps) with m', v' as in Adam.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added outside the root.
        eps_root: added inside the root.
        initial_accumulator_value: first value of both moments, >= 0.
        mu_codec: how m is kept between steps: a codec, a dtype, or None for at least float32.
        nu_codec: how v is kept.

    Raises:
        ValueError: a value outside its interval.

    Source: Zaheer et al., Adaptive Methods for Nonconvex Optimization, NeurIPS 2018.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_yogi(eps=1.0, initial_accumulator_value=0.0)
    >>> tx.update({"w": torch.tensor([3.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([0.7500])}
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1)")
    eps: Hyper = dynamic(1e-3, within="[0, inf)")
    eps_root: Hyper = dynamic(0.0, within="[0, inf)")
    initial_accumulator_value: float = static(1e-6, within="[0, inf)")
    mu_codec: Codec | torch.dtype | None = codec_field()
    nu_codec: Codec | torch.dtype | None = codec_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByYogiState:
        first = self.initial_accumulator_value
        mu = first_moment_codec(self.mu_codec).init_full(p, first, signed=True)
        nu = as_codec(self.nu_codec).init_full(p, first, signed=False)
        return ScaleByYogiState(new_count([p]), mu, nu)

    def update_leaf(
        self, u: Tensor, s: ScaleByYogiState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByYogiState]:
        step = advance(s.step)
        mu_codec, nu_codec = first_moment_codec(self.mu_codec), as_codec(self.nu_codec)
        square, old = u * u, nu_codec.decode(s.nu, u)
        moved = (old - self.initial_accumulator_value).abs()
        mu = average(first_moment_of(mu_codec, s.mu, u, moved), u, h.b1)
        # Equal ones apart: once both have overflowed their difference is no number.
        towards = torch.where(old == square, 0.0, sign(old - square) * square)
        nu = old - (1 - h.b2) * towards
        corrected = nu / one_minus_power(h.b2, step, u.dtype)
        mean = corrected_mean(mu, u, h.b1, step)
        out = divide_by_root(mean, corrected, h.eps, h.eps_root)
        return out, ScaleByYogiState(step, mu_codec.encode(mu, s.mu), nu_codec.encode(nu, s.nu))
