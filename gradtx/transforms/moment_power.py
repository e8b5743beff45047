"""A power of the average or sum of squares, as a denominator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, as_codec, codec_field
from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo
from ..core.parts import power as raised
from ..core.roles import SecondMoment
from ..core.roots import root
from ..core.state import advance, new_count
from ..core.transform import LeafTransform


class SecondMomentPowerState(NamedTuple):
    """State of ``second_moment_power``.

    Attributes:
        step: int32, updates done for this leaf; () without debiasing.
        nu: average or sum of squared updates, as its codec keeps it.
    """

    step: Tensor | tuple[()]
    nu: SecondMoment


@dataclass(frozen=True)
class second_moment_power(LeafTransform):
    """A power of gathered squares, a denominator: ``v <- b2 v + (1 - b2) u^2``; v^power + eps.

    With ``average=False`` it is ``v <- b2 v + u^2``, Adagrad's sum with b2 = 1.

    Args:
        b2: decay, in [0, 1].
        eps: added to the power, >= 0.
        power: the power, > 0.
        floor: smallest v of which a power is taken, >= 0.
        average: whether new squares count 1 - b2.
        debias: divide an average by 1 - b2^t.
        codec: how v is kept between steps: a codec, a dtype, or None for at least float32.

    Raises:
        ValueError: a value outside its interval, or an average with b2 = 1.

    >>> import torch, gradtx as gx
    >>> tx = gx.second_moment_power(1.0, power=0.25, average=False)
    >>> tx.update({"w": torch.tensor([-4.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([2.])}
    """

    b2: Hyper = dynamic(0.999, within="[0, 1]")
    eps: Hyper = dynamic(0.0, within="[0, inf)")
    power: Hyper = dynamic(0.5, within="(0, inf)")
    floor: Hyper = dynamic(0.0, within="[0, inf)")
    average: bool = static(True)
    debias: bool = static(False)
    codec: Codec | torch.dtype | None = codec_field()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.average and isinstance(self.b2, (int, float)) and self.b2 == 1:
            raise ValueError("second_moment_power: b2 must be < 1 for an average, got 1")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> SecondMomentPowerState:
        step = new_count([p]) if self.debias else ()
        return SecondMomentPowerState(step, as_codec(self.codec).init(p, signed=False))

    def update_leaf(
        self, u: Tensor, s: SecondMomentPowerState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, SecondMomentPowerState]:
        codec = as_codec(self.codec)
        weight = 1 - h.b2 if self.average else 1.0
        nu = h.b2 * codec.decode(s.nu, u) + weight * (u * u)
        out, step = torch.clamp(nu, min=h.floor), s.step
        if isinstance(step, Tensor):
            step = advance(step)
            out = out / one_minus_power(h.b2, step, u.dtype)
        # The root is exact, and finite in derivatives; a power of a tensor is neither.
        whole = isinstance(h.power, (int, float)) and h.power == 0.5
        out = root(out) if whole else _power(out, h.power)
        return out + h.eps, SecondMomentPowerState(step, codec.encode(nu, s.nu))


def _power(x: Tensor, power: float | Tensor) -> Tensor:
    """``x^power``, with derivative zero at zero."""
    zero = x == 0
    return torch.where(zero, 0.0, raised(torch.where(zero, 1.0, x), power))
