"""Adam's step size with both bias corrections, as one factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic, one_minus_power
from ..core.leaves import LeafInfo
from ..core.roots import root
from ..core.state import advance, new_count
from ..core.transform import LeafTransform


class BiasFactorState(NamedTuple):
    """Attributes: ``step``, int32, updates done for this leaf."""

    step: Tensor


@dataclass(frozen=True)
class scale_by_bias_factor(LeafTransform):
    """Multiply updates by ``sqrt(1 - b2^t) / (1 - b1^t)``.

    The correction of both of Adam's moments where they were divided without it; see also
    ``undo_bias``, and ``root_second_moment``, which correct one moment each.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).

    Raises:
        ValueError: a value outside its interval.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_bias_factor(0.5, 0.75)
    >>> tx.update({"w": torch.ones(1)}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([1.])}
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1]")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> BiasFactorState:
        return BiasFactorState(new_count([p]))

    def update_leaf(
        self, u: Tensor, s: BiasFactorState, p: Any, h: Values
    ) -> tuple[Tensor, BiasFactorState]:
        step = advance(s.step)
        factor = root(one_minus_power(h.b2, step, u.dtype)) / one_minus_power(h.b1, step, u.dtype)
        return u * factor, BiasFactorState(step)
