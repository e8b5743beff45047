"""Weight decay that follows the ratio of gradient to weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import LeafInfo
from ..core.protocol import GradientTransformation
from ..core.roots import divide, root
from ..core.select import Labels, masked
from ..core.state import state_zeros
from ..core.sums import element_sum
from ..core.transform import LeafTransform


class AdaptiveDecayState(NamedTuple):
    """Attributes: ``rate``, 0-d, the multiple of the parameter in the last step."""

    rate: Tensor


@dataclass(frozen=True)
class _AddAdaptiveDecay(LeafTransform):
    requires_params: ClassVar[bool] = True
    needs_grad: ClassVar[bool] = True

    weight_decay: Hyper = dynamic(0.0, within="[0, inf)")
    decay: Hyper = dynamic(0.1, within="[0, 1)")

    @property
    def name(self) -> str:
        return "add_adaptive_decayed_weights"

    def init_leaf(self, p: Tensor, info: LeafInfo) -> AdaptiveDecayState:
        return AdaptiveDecayState(state_zeros(p).new_zeros(()))

    def update_leaf(
        self, u: Tensor, s: AdaptiveDecayState, p: Tensor, h: Values
    ) -> tuple[Tensor, AdaptiveDecayState]:
        size, base = (root(element_sum(x.square())) for x in (h.grad, p))
        ratio = divide(size, base).to(s.rate.dtype)
        rate = h.decay * s.rate + (1 - h.decay) * h.weight_decay * ratio
        return u + rate.to(u.dtype) * p, AdaptiveDecayState(rate)


def add_adaptive_decayed_weights(
    weight_decay: Hyper = 0.0, decay: Hyper = 0.1, mask: Labels | None = None
) -> GradientTransformation:
    """Add a multiple of the parameter that follows ||g|| / ||p||, leaf by leaf.

    w <- decay w + (1 - decay) weight_decay ||g|| / ||p||,  u <- u + w p, from w = 0 on. A leaf of
    zeros counts as no decay.

    Args:
        weight_decay: >= 0, or a schedule.
        decay: of the running multiple, in [0, 1).
        mask: which leaves decay, a predicate on ``LeafInfo`` or a tree of booleans; default all.

    Raises:
        ValueError: a value outside its range, or no parameters given to ``update``.

    Source: Ghiasi et al., Improving robustness with adaptive weight decay, arXiv 2210.00094.

    >>> import torch, gradtx as gx
    >>> tx, p = gx.chain(gx.add_adaptive_decayed_weights(0.5, 0.0)), {"w": torch.tensor([2.0])}
    >>> tx.update({"w": torch.tensor([4.0])}, tx.init(p), p)[0]
    {'w': tensor([6.])}
    """
    found = _AddAdaptiveDecay(weight_decay, decay)
    return found if mask is None else masked(found, mask)
