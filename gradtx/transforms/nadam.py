"""Nesterov momentum with its own schedule inside Adam."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, as_codec, codec_field, first_moment_codec, first_moment_of
from ..core.averages import average, average_square
from ..core.hyper import Hyper, Values, dynamic, one_minus_power
from ..core.leaves import LeafInfo
from ..core.roles import FirstMoment, SecondMoment
from ..core.roots import divide_by_root
from ..core.state import advance, new_count
from ..core.transform import LeafTransform
from ..core.tree import accumulator_dtype

_WARM_UP_LOG = math.log(0.96)


class ScaleByNadamState(NamedTuple):
    """State of ``scale_by_nadam``.

    Attributes:
        step: int32, updates done for this leaf.
        mu_product: 0-d, product of the momentum values so far.
        mu: average of updates, as its codec keeps it.
        nu: average of squared updates, as its codec keeps it.
    """

    step: Tensor
    mu_product: Tensor
    mu: FirstMoment
    nu: SecondMoment


@dataclass(frozen=True)
class scale_by_nadam(LeafTransform):
    """Adam with Nesterov momentum that grows from b1 / 2 to b1.

    c_t = b1 (1 - 0.96^(t momentum_decay) / 2);  P_t = c_1 ... c_t;  m, v as in Adam;
    update = ((1 - c_t) u / (1 - P_t) + c_(t+1) m / (1 - P_(t+1))) / (sqrt(v / (1 - b2^t)) + eps).
    ``scale_by_adam(nesterov=True)`` is the same idea with constant momentum.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added outside the root.
        momentum_decay: how fast the momentum reaches b1, >= 0.
        mu_codec: how m is kept between steps: a codec, a dtype, or None for at least float32.
        nu_codec: how v is kept.

    Raises:
        ValueError: a value outside its interval.

    Source: Dozat, Incorporating Nesterov Momentum into Adam, ICLR workshop 2016.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_nadam(b1=0.0)
    >>> tx.update({"w": torch.tensor([2.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([1.])}
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1)")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")
    momentum_decay: Hyper = dynamic(0.004, within="[0, inf)")
    mu_codec: Codec | torch.dtype | None = codec_field()
    nu_codec: Codec | torch.dtype | None = codec_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByNadamState:
        one = torch.ones((), dtype=accumulator_dtype(p.dtype), device=p.device)
        mu = as_codec(self.mu_codec).init(p, signed=True)
        nu = as_codec(self.nu_codec).init(p, signed=False)
        return ScaleByNadamState(new_count([p]), one, mu, nu)

    def update_leaf(
        self, u: Tensor, s: ScaleByNadamState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByNadamState]:
        step = advance(s.step)
        mu_codec, nu_codec = first_moment_codec(self.mu_codec), as_codec(self.nu_codec)
        second = nu_codec.decode(s.nu, u)
        mu = average(first_moment_of(mu_codec, s.mu, u, second), u, h.b1)
        nu = average_square(second, u, h.b2)
        speed = h.momentum_decay * _WARM_UP_LOG
        now = h.b1 * (1 - 0.5 * torch.exp(step.to(u.dtype) * speed))
        ahead = h.b1 * (1 - 0.5 * torch.exp(advance(step).to(u.dtype) * speed))
        product = s.mu_product.to(u.dtype) * now
        numerator = u * ((1 - now) / (1 - product)) + mu * (ahead / (1 - product * ahead))
        square = nu / one_minus_power(h.b2, step, u.dtype)
        return divide_by_root(numerator, square, h.eps), ScaleByNadamState(
            step,
            product.to(s.mu_product.dtype),
            mu_codec.encode(mu, s.mu),
            nu_codec.encode(nu, s.nu),
        )
