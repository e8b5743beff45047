"""Adan: Nesterov momentum from differences of gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, Encoding, as_codec, codec_field, first_moment_codec, first_moment_of
from ..core.averages import average, corrected_mean
from ..core.hyper import Hyper, Values, dynamic, one_minus_power
from ..core.leaves import LeafInfo
from ..core.roots import divide_by_sum, root
from ..core.state import advance, new_count
from ..core.transform import LeafTransform


class ScaleByAdanState(NamedTuple):
    """State of ``scale_by_adan``.

    Attributes:
        step: int32, updates done for this leaf.
        m: average of updates, as its codec keeps it.
        v: average of differences of updates, as its codec keeps it.
        n: average of squared extrapolated updates, as its codec keeps it.
        g: the last update that came in, as its codec keeps it.
    """

    step: Tensor
    m: Encoding
    v: Encoding
    n: Encoding
    g: Encoding


@dataclass(frozen=True)
class scale_by_adan(LeafTransform):
    """Divide averaged updates and differences by the root of the extrapolated second moment.

    d = u - u_previous (zero at the first update);  m, v, n average u, d, (u + (1 - b2) d)^2 with
    decays b1, b2, b3;  update = (m' + (1 - b2) v') / (sqrt(n' + eps_root) + eps), primes meaning
    division by 1 - b^t.

    Args:
        b1: decay of updates, in [0, 1).
        b2: decay of differences, in [0, 1).
        b3: decay of squares, in [0, 1).
        eps: added outside the root.
        eps_root: added inside the root.
        mu_codec: how m, v and the last update are kept between steps: a codec, a dtype, or None for
            at least float32.
        nu_codec: how n is kept.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2208.06677.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_adan()
    >>> tx.update({"w": torch.tensor([2.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([1.])}
    """

    b1: Hyper = dynamic(0.98, within="[0, 1)")
    b2: Hyper = dynamic(0.92, within="[0, 1)")
    b3: Hyper = dynamic(0.99, within="[0, 1)")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")
    eps_root: Hyper = dynamic(0.0, within="[0, inf)")
    mu_codec: Codec | torch.dtype | None = codec_field()
    nu_codec: Codec | torch.dtype | None = codec_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByAdanState:
        m, v, g = (as_codec(self.mu_codec).init(p, signed=True) for _ in range(3))
        n = as_codec(self.nu_codec).init(p, signed=False)
        return ScaleByAdanState(new_count([p]), m, v, n, g)

    def update_leaf(
        self, u: Tensor, s: ScaleByAdanState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByAdanState]:
        step = advance(s.step)
        mu_codec, nu_codec = first_moment_codec(self.mu_codec), as_codec(self.nu_codec)
        second = nu_codec.decode(s.n, u)
        m, v, g = (first_moment_of(mu_codec, x, u, second) for x in (s.m, s.v, s.g))
        change = torch.where(s.step == 0, torch.zeros_like(u), u - g)
        ahead = 1 - h.b2
        extrapolated = u + ahead * change
        m, v = average(m, u, h.b1), average(v, change, h.b2)
        n = average(second, extrapolated * extrapolated, h.b3)
        numerator = corrected_mean(m, u, h.b1, step) + ahead * corrected_mean(v, u, h.b2, step)
        size = root(n / one_minus_power(h.b3, step, u.dtype), h.eps_root)
        return divide_by_sum(numerator, size, h.eps), ScaleByAdanState(
            step,
            mu_codec.encode(m, s.m),
            mu_codec.encode(v, s.v),
            nu_codec.encode(n, s.n),
            mu_codec.encode(u, s.g),
        )
