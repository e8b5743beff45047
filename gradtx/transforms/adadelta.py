"""Adadelta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..core.averages import average, average_square
from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import LeafInfo
from ..core.roots import divide, root
from ..core.state import state_zeros
from ..core.transform import LeafTransform


class ScaleByAdadeltaState(NamedTuple):
    """State of ``scale_by_adadelta``.

    Attributes:
        e_g: average of squared incoming updates, shaped like the parameter.
        e_x: average of squared outgoing updates.
    """

    e_g: Tensor
    e_x: Tensor


@dataclass(frozen=True)
class scale_by_adadelta(LeafTransform):
    """Give updates the root mean square size of the steps taken so far.

    e_g <- rho e_g + (1 - rho) u^2;  x = u sqrt(e_x + eps) / sqrt(e_g + eps);
    e_x <- rho e_x + (1 - rho) x^2; the update is x.

    Args:
        rho: decay of both averages, in [0, 1].
        eps: added inside both roots.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1212.5701.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_adadelta(rho=0.75, eps=1.0)
    >>> tx.update({"w": torch.tensor([2.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([1.4142])}
    """

    rho: Hyper = dynamic(0.9, within="[0, 1]")
    eps: Hyper = dynamic(1e-6, within="[0, inf)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByAdadeltaState:
        return ScaleByAdadeltaState(state_zeros(p), state_zeros(p))

    def update_leaf(
        self, u: Tensor, s: ScaleByAdadeltaState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByAdadeltaState]:
        eps = h.eps
        e_g = average_square(s.e_g, u, h.rho)
        out = u * divide(root(s.e_x.to(u.dtype) + eps), root(e_g + eps))
        e_x = average(s.e_x, out * out, h.rho)
        return out, ScaleByAdadeltaState(e_g.to(s.e_g.dtype), e_x.to(s.e_x.dtype))
