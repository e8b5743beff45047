"""Division by the root of averaged squares: RMSprop, plain and centered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, as_codec, codec_field, first_moment_codec
from ..core import hyper as hyper_
from ..core.averages import average, average_square
from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo
from ..core.roles import FirstMoment, SecondMoment
from ..core.roots import divide, divide_by_root, root
from ..core.state import advance, new_count
from ..core.transform import LeafTransform


class ScaleByRmsState(NamedTuple):
    """State of ``scale_by_rms``.

    Attributes:
        step: int32, updates done for this leaf; () without bias correction.
        nu: average of squared updates, as its codec keeps it.
    """

    step: Tensor | tuple[()]
    nu: SecondMoment


@dataclass(frozen=True)
class scale_by_rms(LeafTransform):
    """Divide updates by the root of the average of their squares.

    v <- decay v + (1 - decay) u^2; update = u / sqrt(v + eps), or u / (sqrt(v) + eps).

    Args:
        decay: decay of the average, in [0, 1].
        eps: added to the denominator.
        initial_scale: first value of v.
        eps_in_sqrt: add eps inside the root (Optax's default) or outside (torch.optim).
        bias_correction: use v / (1 - decay^t).
        nu_codec: how v is kept between steps: a codec, a dtype, or None for at least float32.

    Raises:
        ValueError: a value outside its interval.

    Source: Tieleman and Hinton, lecture 6.5 of Neural Networks for Machine Learning, 2012;
    arXiv 1308.0850.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_rms(decay=0.75)
    >>> tx.update({"w": torch.tensor([4.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([2.])}
    """

    decay: Hyper = dynamic(0.9, within="[0, 1]")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")
    initial_scale: float = static(0.0, within="[0, inf)")
    eps_in_sqrt: bool = static(True)
    bias_correction: bool = static(False)
    nu_codec: Codec | torch.dtype | None = codec_field()

    @cached_property
    def declared(self) -> Mapping[str, str]:  # type: ignore[override]
        """Intervals by name: what is corrected for a start at zero must leave it."""
        within = hyper_.declare(type(self))
        return {**within, "decay": "[0, 1)"} if self.bias_correction else within

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByRmsState:
        step = new_count([p]) if self.bias_correction else ()
        nu = as_codec(self.nu_codec).init_full(p, self.initial_scale, signed=False)
        return ScaleByRmsState(step, nu)

    def update_leaf(
        self, u: Tensor, s: ScaleByRmsState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByRmsState]:
        codec = as_codec(self.nu_codec)
        nu = average_square(codec.decode(s.nu, u), u, h.decay)
        step, corrected = s.step, nu
        if isinstance(step, Tensor):
            step = advance(step)
            corrected = divide(nu, one_minus_power(h.decay, step, u.dtype))
        out = _by_root(u, corrected, h.eps, self.eps_in_sqrt)
        return out, ScaleByRmsState(step, codec.encode(nu, s.nu))


class ScaleByStddevState(NamedTuple):
    """State of ``scale_by_stddev``.

    Attributes:
        step: int32, updates done for this leaf; () without bias correction.
        mu: average of updates, as its codec keeps it.
        nu: average of squared updates, as its codec keeps it.
    """

    step: Tensor | tuple[()]
    mu: FirstMoment
    nu: SecondMoment


@dataclass(frozen=True)
class scale_by_stddev(LeafTransform):
    """Divide updates by their running standard deviation (centered RMSprop).

    m <- decay m + (1 - decay) u;  v <- decay v + (1 - decay) u^2;
    update = u / sqrt(v - m^2 + eps), or u / (sqrt(v - m^2) + eps).
    A variance that rounding made negative counts as zero.

    Args:
        decay: decay of both averages, in [0, 1].
        eps: added to the denominator.
        initial_scale: first value of v.
        eps_in_sqrt: add eps inside the root (Optax's default) or outside (torch.optim).
        bias_correction: divide both averages by 1 - decay^t.
        mu_codec: how m is kept between steps: a codec, a dtype, or None for at least float32.
        nu_codec: how v is kept.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1308.0850.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_stddev(decay=0.5)
    >>> tx.update({"w": torch.tensor([4.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([2.])}
    """

    decay: Hyper = dynamic(0.9, within="[0, 1]")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")
    initial_scale: float = static(0.0, within="[0, inf)")
    eps_in_sqrt: bool = static(True)
    bias_correction: bool = static(False)
    mu_codec: Codec | torch.dtype | None = codec_field()
    nu_codec: Codec | torch.dtype | None = codec_field()

    @cached_property
    def declared(self) -> Mapping[str, str]:  # type: ignore[override]
        """Intervals by name: what is corrected for a start at zero must leave it."""
        within = hyper_.declare(type(self))
        return {**within, "decay": "[0, 1)"} if self.bias_correction else within

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByStddevState:
        step = new_count([p]) if self.bias_correction else ()
        mu = as_codec(self.mu_codec).init(p, signed=True)
        nu = as_codec(self.nu_codec).init_full(p, self.initial_scale, signed=False)
        return ScaleByStddevState(step, mu, nu)

    def update_leaf(
        self, u: Tensor, s: ScaleByStddevState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByStddevState]:
        mu_codec, nu_codec = first_moment_codec(self.mu_codec), as_codec(self.nu_codec)
        mu = average(mu_codec.decode(s.mu, u), u, h.decay)
        nu = average_square(nu_codec.decode(s.nu, u), u, h.decay)
        step, mean, square = s.step, mu, nu
        if isinstance(step, Tensor):
            step = advance(step)
            correction = one_minus_power(h.decay, step, u.dtype)
            mean, square = divide(mu, correction), divide(nu, correction)
        variance = torch.clamp(square - mean * mean, min=0)
        out = _by_root(u, variance, h.eps, self.eps_in_sqrt)
        return out, ScaleByStddevState(step, mu_codec.encode(mu, s.mu), nu_codec.encode(nu, s.nu))


def _by_root(u: Tensor, square: Tensor, eps: float | Tensor, inside: bool) -> Tensor:
    return divide(u, root(square + eps)) if inside else divide_by_root(u, square, eps)
