"""The learning rate: the only place where updates turn against the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import STRUCTURED
from ..core.transform import LeafTransform
from .scale import scale_leaf


@dataclass(frozen=True)
class scale_by_learning_rate(LeafTransform):
    """Multiply updates by minus the learning rate: ``u <- -lr * u``.

    Args:
        lr: learning rate >= 0, or a schedule of the number of updates done; a tensor may hold one
            value for every entry of a leaf.
        flip_sign: False keeps the sign.

    >>> import torch, gradtx as gx
    >>> gx.scale_by_learning_rate(0.5).update({"w": torch.ones(1)}, (), hyper={"lr": 0.1})[0]
    {'w': tensor([-0.1000])}
    """

    accepts: ClassVar[tuple[type, ...]] = (Tensor, *STRUCTURED)

    lr: Hyper = dynamic(within="[0, inf)", per_entry=True)
    flip_sign: bool = static(True)

    def update_leaf(self, u: Any, s: Any, p: Any, h: Values) -> tuple[Any, Any]:
        return scale_leaf(u, -h.lr if self.flip_sign else h.lr), s


@dataclass(frozen=True)
class scale_by_schedule(LeafTransform):
    """Multiply updates by a schedule of the number of updates done: ``u <- f(count) * u``.

    Args:
        step_size: the schedule, ``count -> factor``.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_schedule(gx.schedules.linear(1.0, 0.0, 2))
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.ones(1)}, state)
    >>> updates
    {'w': tensor([0.5000])}
    """

    accepts: ClassVar[tuple[type, ...]] = (Tensor, *STRUCTURED)

    step_size: Hyper = dynamic(per_entry=True)

    def update_leaf(self, u: Any, s: Any, p: Any, h: Values) -> tuple[Any, Any]:
        return scale_leaf(u, h.step_size), s
