"""ADOPT: division by the second moment of the past."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, as_codec, codec_field
from ..core.averages import average
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo
from ..core.roles import SecondMoment
from ..core.roots import angle, divide_by_root, root
from ..core.state import advance, new_count
from ..core.transform import LeafTransform


class ScaleByAdoptState(NamedTuple):
    """State of ``scale_by_adopt``.

    Attributes:
        step: int32, updates done for this leaf.
        nu: average of squared updates up to the last step, as its codec keeps it.
    """

    step: Tensor
    nu: SecondMoment


@dataclass(frozen=True)
class scale_by_adopt(LeafTransform):
    """Divide updates by the root of a second moment that does not contain them yet.

    x = u / (sqrt(v) + eps), clipped to +-(t - 1)^clip, then v <- b2 v + (1 - b2) u^2. A leaf's
    first update only sets v = u^2 and gives zero. With ``atan2`` x = atan2(u, sqrt(v)), which needs
    neither eps nor clip, and the first update is used too; scale by 4/pi afterwards. A momentum
    comes after this transform, ``gx.skip_first`` at the end of the chain.

    Args:
        b2: decay of the second moment, in [0, 1).
        eps: added to the root, >= 0, in the unit of the updates; unused by atan2.
        clip: exponent of the bound, or a function of the number of earlier updates that gives the
            bound; None for no clipping.
        atan2: the bounded quotient.
        codec: how v is kept between steps: a codec, a dtype, or None for at least float32.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2411.02853.

    >>> import torch, gradtx as gx
    >>> tx, u = gx.scale_by_adopt(eps=0.0), {"w": torch.tensor([4.0])}
    >>> first, state = tx.update(u, tx.init(u))
    >>> first["w"], tx.update({"w": torch.tensor([2.0])}, state)[0]["w"]
    (tensor([0.]), tensor([0.5000]))
    """

    needs_unit: ClassVar[bool] = True

    b2: Hyper = dynamic(0.9999, within="[0, 1)")
    eps: Hyper = dynamic(1e-6, within="[0, inf)")
    clip: float | Callable[[Tensor], Tensor] | None = static(0.25, within="[0, inf)")
    atan2: bool = static(False)
    codec: Codec | torch.dtype | None = codec_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByAdoptState:
        return ScaleByAdoptState(new_count([p]), as_codec(self.codec).init(p, signed=False))

    def update_leaf(
        self, u: Tensor, s: ScaleByAdoptState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByAdoptState]:
        codec = as_codec(self.codec)
        first, square = s.step == 0, u * u
        nu = codec.decode(s.nu, u)
        if self.atan2:
            # What the state would hold: a lossy codec's image of the square.
            nu = torch.where(first, codec.decode(codec.encode(square, s.nu), u), nu)
            out = angle(u, root(nu))
            new = average(nu, square, h.b2)
        else:
            out = divide_by_root(u, nu, h.eps * h.unit)
            if self.clip is not None:
                steps = s.step.to(u.dtype)
                bound = self.clip(steps) if callable(self.clip) else steps**self.clip
                out = torch.clamp(out, -bound, bound)
            out = torch.where(first, torch.zeros_like(out), out)
            new = torch.where(first, square, average(nu, square, h.b2))
        return out, ScaleByAdoptState(advance(s.step), codec.encode(new, s.nu))


class SkipFirstState(NamedTuple):
    """Attributes: ``step``, int32, updates done for this leaf."""

    step: Tensor


@dataclass(frozen=True)
class skip_first(LeafTransform):
    """Make a leaf's first update zero. At the end of a chain it leaves out the first step.

    What stands before it still sees the first gradient; its weight decay does not reach the
    parameter.

    >>> import torch, gradtx as gx
    >>> tx, u = gx.skip_first(), {"w": torch.ones(1)}
    >>> first, state = tx.update(u, tx.init(u))
    >>> first["w"], tx.update(u, state)[0]["w"]
    (tensor([0.]), tensor([1.]))
    """

    def init_leaf(self, p: Tensor, info: LeafInfo) -> SkipFirstState:
        return SkipFirstState(new_count([p]))

    def update_leaf(
        self, u: Tensor, s: SkipFirstState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, SkipFirstState]:
        return torch.where(s.step == 0, torch.zeros_like(u), u), SkipFirstState(advance(s.step))
