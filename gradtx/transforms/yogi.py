"""Yogi: a second moment that changes additively."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo
from ..core.state import new_count, state_full
from ..core.transform import LeafTransform
from .adam import average, corrected_mean


class ScaleByYogiState(NamedTuple):
    """State of ``scale_by_yogi``.

    Attributes:
        step: int32, updates done for this leaf.
        mu: average of updates, shaped like the parameter.
        nu: second moment.
    """

    step: Tensor
    mu: Tensor
    nu: Tensor


@dataclass(frozen=True)
class scale_by_yogi(LeafTransform):
    """Adam's moments, the second one moving by at most ``(1 - b2) u^2`` at an update.

    m <- b1 m + (1 - b1) u;  v <- v - (1 - b2) sign(v - u^2) u^2;
    update = m' / (sqrt(v' + eps_root) + eps) with m', v' as in Adam.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added outside the root.
        eps_root: added inside the root.
        initial_accumulator_value: first value of both moments, >= 0.

    Raises:
        ValueError: a value outside its interval.

    Source: Zaheer et al., Adaptive Methods for Nonconvex Optimization, NeurIPS 2018.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_yogi(eps=1.0, initial_accumulator_value=0.0)
    >>> tx.update({"w": torch.tensor([3.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([0.7500])}
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1)")
    eps: Hyper = dynamic(1e-3, within="[0, inf)")
    eps_root: Hyper = dynamic(0.0, within="[0, inf)")
    initial_accumulator_value: float = static(1e-6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.initial_accumulator_value >= 0:
            raise ValueError(
                "scale_by_yogi: initial_accumulator_value must be in [0, inf), "
                f"got {self.initial_accumulator_value}"
            )

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByYogiState:
        first = self.initial_accumulator_value
        return ScaleByYogiState(new_count([p]), state_full(p, first), state_full(p, first))

    def update_leaf(
        self, u: Tensor, s: ScaleByYogiState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByYogiState]:
        step = s.step + 1
        mu = average(s.mu, u, h.b1)
        square = u * u
        old = s.nu.to(u.dtype)
        nu = old - (1 - h.b2) * torch.sign(old - square) * square
        corrected = nu / one_minus_power(h.b2, step, u.dtype)
        root = torch.sqrt(corrected + h.eps_root)
        out = corrected_mean(mu, u, h.b1, step) / (root + h.eps)
        return out, ScaleByYogiState(step, mu.to(s.mu.dtype), nu.to(s.nu.dtype))
