"""Sums and averages of past updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, as_codec, codec_field, first_moment_codec
from ..core.averages import average, corrected_mean
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo
from ..core.roles import FirstMoment
from ..core.state import advance, new_count
from ..core.transform import LeafTransform


class TraceState(NamedTuple):
    """Attributes: ``trace``, the decayed sum of updates, as its codec keeps it."""

    trace: FirstMoment


@dataclass(frozen=True)
class trace(LeafTransform):
    """Heavy-ball momentum: ``t <- u + decay * t``.

    The update is t, or ``u + decay * t`` with Nesterov.

    Args:
        decay: how much of the sum is kept, in [0, 1].
        nesterov: look one step ahead.
        codec: how the sum is kept between steps: a dtype or a codec (``gx.codecs``); None for
            float32, float64 for float64 parameters.

    Raises:
        ValueError: a value outside its interval.
        TypeError: neither a codec nor a dtype.

    >>> import torch, gradtx as gx
    >>> tx = gx.trace(0.9)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.ones(1)}, state)
    >>> updates
    {'w': tensor([1.9000])}
    """

    decay: Hyper = dynamic(within="[0, 1]", momentum=True)
    nesterov: bool = static(False)
    codec: Codec | torch.dtype | None = codec_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> TraceState:
        return TraceState(as_codec(self.codec).init(p, signed=True))

    def update_leaf(
        self, u: Tensor, s: TraceState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, TraceState]:
        codec = first_moment_codec(self.codec)
        decay = h.decay
        new = u + decay * codec.decode(s.trace, u)
        out = u + decay * new if self.nesterov else new
        return out, TraceState(codec.encode(new, s.trace))


class DampedTraceState(NamedTuple):
    """State of ``damped_trace``.

    Attributes:
        step: int32, updates done for this leaf.
        trace: the decayed sum of updates, as its codec keeps it.
    """

    step: Tensor
    trace: FirstMoment


@dataclass(frozen=True)
class damped_trace(LeafTransform):
    """Heavy-ball momentum that adds only a part of every update but the first.

    t <- u at the first update, then t <- decay * t + (1 - dampening) * u; the update is t.
    This is the momentum of ``torch.optim.SGD`` with dampening.

    Args:
        decay: how much of the sum is kept, in [0, 1].
        dampening: the part of later updates that is left out, in [0, 1].
        codec: how the sum is kept between steps: a dtype or a codec (``gx.codecs``); None for
            float32, float64 for float64 parameters.

    Raises:
        ValueError: a value outside its interval.
        TypeError: neither a codec nor a dtype.

    >>> import torch, gradtx as gx
    >>> tx = gx.damped_trace(0.5, dampening=0.9)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.ones(1)}, state)
    >>> updates
    {'w': tensor([0.6000])}
    """

    decay: Hyper = dynamic(within="[0, 1]", momentum=True)
    dampening: Hyper = dynamic(within="[0, 1]")
    codec: Codec | torch.dtype | None = codec_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> DampedTraceState:
        codec = as_codec(self.codec)
        return DampedTraceState(new_count([p]), codec.init(p, signed=True))

    def update_leaf(
        self, u: Tensor, s: DampedTraceState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, DampedTraceState]:
        codec = first_moment_codec(self.codec)
        later = h.decay * codec.decode(s.trace, u) + (1 - h.dampening) * u
        new = torch.where(s.step == 0, u, later)
        return new, DampedTraceState(advance(s.step), codec.encode(new, s.trace))


class EmaState(NamedTuple):
    """State of ``ema``.

    Attributes:
        step: int32, updates done for this leaf; () without debiasing.
        ema: average of updates, as its codec keeps it.
    """

    step: Tensor | tuple[()]
    ema: FirstMoment


@dataclass(frozen=True)
class ema(LeafTransform):
    """Exponential moving average of updates: ``m <- decay * m + (1 - decay) * u``.

    The update is m, or ``decay * m + (1 - decay) * u`` with Nesterov; with ``debias`` every m is
    divided by its own ``1 - decay^t`` and u by that of this step, as in ``gx.scale_by_adam``.

    Args:
        decay: how much of the average is kept, in [0, 1).
        debias: correct for the average having started at zero.
        codec: how the average is kept between steps: a dtype or a codec (``gx.codecs``); None for
            float32, float64 for float64 parameters.
        nesterov: look one step ahead.

    Raises:
        ValueError: ``decay`` outside its interval.
        TypeError: neither a codec nor a dtype.

    >>> import torch, gradtx as gx
    >>> tx = gx.ema(0.9, debias=False)
    >>> tx.update({"w": torch.ones(1)}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([0.1000])}
    """

    decay: Hyper = dynamic(within="[0, 1)", momentum=True)
    debias: bool = static(True)
    codec: Codec | torch.dtype | None = codec_field()
    nesterov: bool = static(False)

    def init_leaf(self, p: Tensor, info: LeafInfo) -> EmaState:
        step = new_count([p]) if self.debias else ()
        codec = as_codec(self.codec)
        return EmaState(step, codec.init(p, signed=True))

    def update_leaf(
        self, u: Tensor, s: EmaState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, EmaState]:
        codec = first_moment_codec(self.codec)
        new = average(codec.decode(s.ema, u), u, h.decay)
        stored = codec.encode(new, s.ema)
        if not isinstance(s.step, Tensor):
            return average(new, u, h.decay) if self.nesterov else new, EmaState((), stored)
        step = advance(s.step)
        out = corrected_mean(new, u, h.decay, step, self.nesterov)
        return out, EmaState(step, stored)
