"""Adam that waits until its second moment can be trusted."""

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
from ..core.roots import divide, root
from ..core.state import advance, new_count
from ..core.transform import LeafTransform


class ScaleByRadamState(NamedTuple):
    """State of ``scale_by_radam``.

    Attributes:
        step: int32, updates done for this leaf.
        mu: average of updates, as its codec keeps it.
        nu: average of squared updates, as its codec keeps it.
    """

    step: Tensor
    mu: FirstMoment
    nu: SecondMoment


@dataclass(frozen=True)
class scale_by_radam(LeafTransform):
    """Adam's moments with the variance of the second one rectified.

    m, v as in Adam; n = 2 / (1 - b2) - 1;  r = n - 2 t b2^t / (1 - b2^t);
    update = m' sqrt((r - 4)(r - 2) n / ((n - 4)(n - 2) r)) / (sqrt(v' + eps_root) + eps)
    once r reaches the threshold, m' before.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added outside the root.
        eps_root: added inside the root.
        threshold: the r from which on the second moment is used, at least 4.
        nesterov: look one step ahead.
        raw_eps: add eps and eps_root before the bias of v is corrected, as torch.optim.
        mu_codec: how m is kept between steps: a codec, a dtype, or None for at least float32.
        nu_codec: how v is kept.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1908.03265.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_radam()
    >>> tx.update({"w": torch.tensor([2.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([2.])}
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1)")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")
    eps_root: Hyper = dynamic(0.0, within="[0, inf)")
    threshold: Hyper = dynamic(5.0, within="[4, inf)")
    nesterov: bool = static(False)
    raw_eps: bool = static(False)
    mu_codec: Codec | torch.dtype | None = codec_field()
    nu_codec: Codec | torch.dtype | None = codec_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByRadamState:
        mu = as_codec(self.mu_codec).init(p, signed=True)
        nu = as_codec(self.nu_codec).init(p, signed=False)
        return ScaleByRadamState(new_count([p]), mu, nu)

    def update_leaf(
        self, u: Tensor, s: ScaleByRadamState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByRadamState]:
        step = advance(s.step)
        mu_codec, nu_codec = first_moment_codec(self.mu_codec), as_codec(self.nu_codec)
        second = nu_codec.decode(s.nu, u)
        mu = average(first_moment_of(mu_codec, s.mu, u, second), u, h.b1)
        nu = average_square(second, u, h.b2)
        mean = corrected_mean(mu, u, h.b1, step, self.nesterov)
        correction = one_minus_power(h.b2, step, u.dtype)
        if self.raw_eps:
            size = (root(nu, h.eps_root) + h.eps) / root(correction)
        else:
            size = root(nu / correction, h.eps_root) + h.eps
        trusted, factor = _rectification(h.b2, step, h.threshold)
        out = torch.where(trusted, divide(factor.to(u.dtype) * mean, size), mean)
        return out, ScaleByRadamState(step, mu_codec.encode(mu, s.mu), nu_codec.encode(nu, s.nu))


def _rectification(
    b2: float | Tensor, step: Tensor, threshold: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Whether the threshold is reached, and the factor.

    In float64 because r is a small difference of large numbers: in float32 the factor would be
    wrong by 3e-5 of itself at the first steps where it counts.
    """
    wide = torch.float64
    t = step.to(wide)
    b2 = b2.to(step.device, wide) if isinstance(b2, Tensor) else torch.full_like(t, b2)
    below = one_minus_power(b2, step, wide)
    limit = 2 / (1 - b2) - 1
    r = limit - 2 * t * (1 - below) / below
    trusted = r >= threshold
    safe = torch.where(trusted, r, torch.full_like(r, 5.0))
    limit = torch.where(trusted, limit, torch.full_like(limit, 5.0))
    ratio = (safe - 4) * (safe - 2) * limit / ((limit - 4) * (limit - 2) * safe)
    return trusted, torch.sqrt(torch.where(trusted, ratio, torch.ones_like(ratio)))
