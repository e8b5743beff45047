"""Weight decay of what a step has reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic
from ..core.transform import LeafTransform


@dataclass(frozen=True)
class decay_after(LeafTransform):
    """Decoupled weight decay after the step: ``p <- (1 - lr weight_decay) (p + u)``.

    The last member of a chain, after the learning rate. ``gx.add_decayed_weights`` decays the
    parameter before the step; the difference is lr weight_decay times the step.

    Args:
        lr: learning rate >= 0, the same as before.
        weight_decay: share that is taken off per unit of lr, >= 0.

    Raises:
        ValueError: a value outside its interval, or no parameters given to ``update``.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.decay_after(0.5, weight_decay=0.2), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.ones(1)}, tx.init(params), params)[0]
    {'w': tensor([0.8000])}
    """

    requires_params: ClassVar[bool] = True

    lr: Hyper = dynamic(within="[0, inf)", per_entry=True)
    weight_decay: Hyper = dynamic(0.0, within="[0, inf)", per_entry=True)

    def update_leaf(self, u: Tensor, s: Any, p: Tensor, h: Values) -> tuple[Tensor, Any]:
        return u - h.lr * h.weight_decay * (p + u), s
