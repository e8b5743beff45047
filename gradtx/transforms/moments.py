"""The parts of an adaptive step: moments above and below the bar, and their corrections."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, as_codec, codec_field, first_moment_codec
from ..core.averages import average, average_square
from ..core.execution import Execution
from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo
from ..core.roles import FirstMoment, SecondMoment
from ..core.roots import nonzero, root
from ..core.state import advance, new_count
from ..core.transform import LeafTransform
from ..core.tree import accumulator_dtype


class FirstMomentState(NamedTuple):
    """Attributes: ``mu``, average of updates, as its codec keeps it."""

    mu: FirstMoment


@dataclass(frozen=True)
class first_moment(LeafTransform):
    """Average of updates that starts at zero: ``m <- b1 m + (1 - b1) u``; the update is m.

    Args:
        b1: decay of the average, in [0, 1).
        codec: how m is kept between steps: a codec, a dtype, or None for at least float32.

    Raises:
        ValueError: ``b1`` outside its interval.

    >>> import torch, gradtx as gx
    >>> tx = gx.first_moment(0.75)
    >>> tx.update({"w": torch.ones(1)}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([0.2500])}
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    codec: Codec | torch.dtype | None = codec_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> FirstMomentState:
        return FirstMomentState(as_codec(self.codec).init(p, signed=True))

    def update_leaf(
        self, u: Tensor, s: FirstMomentState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, FirstMomentState]:
        codec = first_moment_codec(self.codec)
        mu = average(codec.decode(s.mu, u), u, h.b1)
        return mu, FirstMomentState(codec.encode(mu, s.mu))


class SlowMomentState(NamedTuple):
    """State of ``slow_moment``.

    Attributes:
        step: int32, updates done for this leaf.
        slow: slow average of updates, as its codec keeps it.
    """

    step: Tensor
    slow: FirstMoment


@dataclass(frozen=True)
class slow_moment(LeafTransform):
    """AdEMAMix's second, slower average: ``m <- b3 m + (1 - b3) u``; the update is alpha_t m.

    alpha_t = alpha t / t_alpha while t < t_alpha, then alpha; t counts the leaf's updates. Add it
    to a first moment with ``gx.parallel``.

    Args:
        b3: decay of the average, in [0, 1).
        alpha: weight of the average, >= 0.
        t_alpha: updates until the weight is reached; None or 0 for at once.
        codec: how m is kept between steps: a codec, a dtype, or None for at least float32.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2409.03137.

    >>> import torch, gradtx as gx
    >>> tx = gx.slow_moment(0.75, alpha=2.0, t_alpha=4)
    >>> tx.update({"w": torch.ones(1)}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([0.1250])}
    """

    b3: Hyper = dynamic(0.9999, within="[0, 1)")
    alpha: Hyper = dynamic(5.0, within="[0, inf)")
    t_alpha: int | None = static(None, at_least=0)
    codec: Codec | torch.dtype | None = codec_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> SlowMomentState:
        return SlowMomentState(new_count([p]), as_codec(self.codec).init(p, signed=True))

    def update_leaf(
        self, u: Tensor, s: SlowMomentState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, SlowMomentState]:
        codec = first_moment_codec(self.codec)
        step = advance(s.step)
        slow = average(codec.decode(s.slow, u), u, h.b3)
        alpha = h.alpha
        if self.t_alpha:
            alpha = alpha * torch.clamp(step.to(u.dtype) / self.t_alpha, max=1.0)
        return alpha * slow, SlowMomentState(step, codec.encode(slow, s.slow))


class AccumulateState(NamedTuple):
    """State of ``accumulate``.

    Attributes:
        step: int32, updates done for this leaf; () without warm-up.
        gain: what a constant gradient of one has added up to; () without debiasing.
        mu: decayed sum of updates, as its codec keeps it.
    """

    step: Tensor | tuple[()]
    gain: Tensor | tuple[()]
    mu: FirstMoment


@dataclass(frozen=True)
class accumulate(LeafTransform):
    """Decayed sum of updates with more weight on the newest: ``m <- b1 m + u``.

    The update is m + alpha_grad u, divided by the sum's gain (gain <- b1 gain + 1) if ``debias``.
    In a warm-up b1 rises from ``min_b1`` so that the half-life grows linearly.

    Args:
        b1: decay of the sum, in [0, 1).
        alpha_grad: additional weight of the newest update, >= 0.
        warmup: updates until b1 is reached; None for at once.
        min_b1: first decay of a warm-up, in (0, 1) and at most ``b1``.
        debias: divide by the gain.
        codec: how m is kept between steps: a codec, a dtype, or None for at least float32.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2502.02431.

    >>> import torch, gradtx as gx
    >>> tx = gx.accumulate(0.9, alpha_grad=2.0)
    >>> tx.update({"w": torch.ones(1)}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([3.])}
    """

    b1: Hyper = dynamic(0.99, within="[0, 1)")
    alpha_grad: Hyper = dynamic(100.0, within="[0, inf)")
    warmup: int | None = static(None, at_least=0)
    min_b1: float = static(0.9, within="(0, 1)")
    debias: bool = static(True)
    codec: Codec | torch.dtype | None = codec_field()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup and isinstance(self.b1, (int, float)) and self.min_b1 > self.b1:
            raise ValueError(f"accumulate: min_b1 must be <= b1 = {self.b1}, got {self.min_b1}")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> AccumulateState:
        step = new_count([p]) if self.warmup else ()
        zero = torch.zeros((), dtype=accumulator_dtype(p.dtype), device=p.device)
        gain = zero if self.debias else ()
        return AccumulateState(step, gain, as_codec(self.codec).init(p, signed=True))

    def update_leaf(
        self, u: Tensor, s: AccumulateState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, AccumulateState]:
        codec = first_moment_codec(self.codec)
        step, gain, b1 = s.step, s.gain, h.b1
        if self.warmup and isinstance(step, Tensor):
            step = advance(step)
            b1 = _warm_decay(step, self.warmup, self.min_b1, b1, u.dtype)
        mu = b1 * codec.decode(s.mu, u) + u
        out = mu + h.alpha_grad * u
        if isinstance(gain, Tensor):
            gain = b1 * gain + 1
            out = out / gain
        return out, AccumulateState(step, gain, codec.encode(mu, s.mu))


def _warm_decay(step: Tensor, steps: int, first: Any, last: Any, dtype: torch.dtype) -> Tensor:
    """A decay between two others at the right share of their half-lives."""
    share = torch.clamp(step.to(dtype) / steps, max=1.0)
    half_life = (1 - share) * _half_life(first) + share * _half_life(last)
    warm = torch.exp(math.log(0.5) / (half_life + 1))
    return torch.where(step < steps, warm, last)


def _half_life(decay: Any) -> Any:
    near = decay + 1e-8  # as published; keeps a decay of zero finite
    log = torch.log(near) if isinstance(near, Tensor) else math.log(near)
    return math.log(0.5) / log - 1


class RootSecondMomentState(NamedTuple):
    """State of ``root_second_moment``.

    Attributes:
        step: int32, updates done for this leaf; () without debiasing.
        nu: average of squared updates, as its codec keeps it.
    """

    step: Tensor | tuple[()]
    nu: SecondMoment


@dataclass(frozen=True)
class root_second_moment(LeafTransform):
    """The root of the average of squares, a denominator: ``v <- b2 v + (1 - b2) u^2``.

    update = sqrt(v / (1 - b2^t)) + eps, or sqrt(v) + eps without ``debias``.

    Args:
        b2: decay of the average, in [0, 1).
        eps: added to the root, >= 0, in the unit of the updates.
        debias: correct for the average having started at zero.
        eps_at: where eps is added: "end"; "root", before the correction; or None, nowhere.
        codec: how v is kept between steps: a codec, a dtype, or None for at least float32.

    Raises:
        ValueError: a value outside its interval, or an unknown ``eps_at``.

    >>> import torch, gradtx as gx
    >>> tx = gx.root_second_moment(0.99, eps_at=None)
    >>> tx.update({"w": torch.tensor([-4.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([4.])}
    """

    needs_unit: ClassVar[bool] = True
    execution: ClassVar[Execution] = Execution(positive=lambda tx: tx.eps_at is not None)

    b2: Hyper = dynamic(0.999, within="[0, 1)")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")
    debias: bool = static(True)
    eps_at: str | None = static("end", choices=("end", "root", None))
    codec: Codec | torch.dtype | None = codec_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> RootSecondMomentState:
        step = new_count([p]) if self.debias else ()
        return RootSecondMomentState(step, as_codec(self.codec).init(p, signed=False))

    def update_leaf(
        self, u: Tensor, s: RootSecondMomentState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, RootSecondMomentState]:
        codec = as_codec(self.codec)
        nu = average_square(codec.decode(s.nu, u), u, h.b2)
        out, step, eps = root(nu), s.step, nonzero(h.eps * h.unit, u.dtype)
        if self.eps_at == "root":
            out = out + eps
        if isinstance(step, Tensor):
            step = advance(step)
            out = out / root(one_minus_power(h.b2, step, u.dtype))
        if self.eps_at == "end":
            out = out + eps
        return out, RootSecondMomentState(step, codec.encode(nu, s.nu))


class UndoBiasState(NamedTuple):
    """Attributes: ``step``, int32, updates done for this leaf."""

    step: Tensor


@dataclass(frozen=True)
class undo_bias(LeafTransform):
    """Divide by ``1 - b1^t``, what an average that started at zero has gathered after t updates.

    For a step that is linear in a first moment, after everything that happens to the quotient.

    Args:
        b1: decay of the average, in [0, 1).

    Raises:
        ValueError: ``b1`` outside its interval.

    >>> import torch, gradtx as gx
    >>> tx = gx.chain(gx.first_moment(0.9), gx.undo_bias(0.9))
    >>> tx.update({"w": torch.ones(1)}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([1.])}
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> UndoBiasState:
        return UndoBiasState(new_count([p]))

    def update_leaf(
        self, u: Tensor, s: UndoBiasState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, UndoBiasState]:
        step = advance(s.step)
        return u / one_minus_power(h.b1, step, u.dtype), UndoBiasState(step)
