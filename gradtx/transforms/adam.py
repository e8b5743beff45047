"""Adam's moments."""

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


class ScaleByAdamState(NamedTuple):
    """State of ``scale_by_adam``.

    Attributes:
        step: int32, updates done for this leaf.
        mu: average of updates, as its codec keeps it.
        nu: average of squared updates, as its codec keeps it.
        nu_max: largest second moment so far, kept as nu is; () without amsgrad.
    """

    step: Tensor
    mu: FirstMoment
    nu: SecondMoment
    nu_max: SecondMoment = ()


@dataclass(frozen=True)
class scale_by_adam(LeafTransform):
    """Divide the average of updates by the root of the average of their squares.

    m <- b1 m + (1 - b1) u;  v <- b2 v + (1 - b2) u^2;
    update = m' / (sqrt(v' + eps_root) + eps) with m' = m / (1 - b1^t), v' = v / (1 - b2^t).
    Nesterov uses m' = b1 m / (1 - b1^(t+1)) + (1 - b1) u / (1 - b1^t).

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added outside the root.
        eps_root: added inside the root (for derivatives through the update).
        mu_codec: how m is kept between steps: a dtype or a codec (``gx.codecs``); None for at least
            float32.
        nu_codec: how v and the largest v are kept.
        nesterov: look one step ahead.
        amsgrad: "raw" divides by the largest v so far, corrected afterwards (arXiv 1904.09237 and
            torch.optim); "corrected" takes the largest v' (Optax).

    Raises:
        ValueError: a value outside its interval, an unknown ``amsgrad``.
        TypeError: neither a codec nor a dtype.

    Source: arXiv 1412.6980.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_adam()
    >>> updates, state = tx.update({"w": torch.tensor([2.0])}, tx.init({"w": torch.zeros(1)}))
    >>> updates, state["w"].step
    ({'w': tensor([1.])}, tensor(1, dtype=torch.int32))
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1)")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")
    eps_root: Hyper = dynamic(0.0, within="[0, inf)")
    mu_codec: Codec | torch.dtype | None = codec_field()
    nu_codec: Codec | torch.dtype | None = codec_field()
    nesterov: bool = static(False)
    amsgrad: str | None = static(None, choices=(None, "raw", "corrected"))

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByAdamState:
        mu_codec = as_codec(self.mu_codec)
        nu_codec = as_codec(self.nu_codec)
        return ScaleByAdamState(
            new_count([p]),
            mu_codec.init(p, signed=True),
            nu_codec.init(p, signed=False),
            () if self.amsgrad is None else nu_codec.init(p, signed=False),
        )

    def update_leaf(
        self, u: Tensor, s: ScaleByAdamState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByAdamState]:
        mu_codec = first_moment_codec(self.mu_codec)
        nu_codec = as_codec(self.nu_codec)
        count, second = advance(s.step), nu_codec.decode(s.nu, u)
        mu = average(first_moment_of(mu_codec, s.mu, u, second), u, h.b1)
        nu = average_square(second, u, h.b2)
        correction = one_minus_power(h.b2, count, u.dtype)
        denominator, nu_max = nu / correction, s.nu_max
        if self.amsgrad is not None:
            candidate = nu if self.amsgrad == "raw" else denominator
            largest = torch.maximum(nu_codec.decode(nu_max, u), candidate)
            denominator = largest / correction if self.amsgrad == "raw" else largest
            nu_max = nu_codec.encode(largest, nu_max)
        mean = corrected_mean(mu, u, h.b1, count, self.nesterov)
        out = divide_by_root(mean, denominator, h.eps, h.eps_root)
        return out, ScaleByAdamState(
            count, mu_codec.encode(mu, s.mu), nu_codec.encode(nu, s.nu), nu_max
        )
