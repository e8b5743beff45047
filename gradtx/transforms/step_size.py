"""Factors that depend on how many updates a leaf has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import LeafInfo
from ..core.state import advance, new_count
from ..core.transform import LeafTransform


class StepState(NamedTuple):
    """Attributes: ``step``, int32, updates done for this leaf."""

    step: Tensor


@dataclass(frozen=True)
class scale_by_inverse_time(LeafTransform):
    """Shrink updates with time: ``u <- u / (1 + rate * t)``, t the updates done before.

    Args:
        rate: >= 0; ``lr_decay`` of ``torch.optim.Adagrad``.

    Raises:
        ValueError: a negative rate.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_inverse_time(1.0)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.ones(1)}, state)
    >>> updates
    {'w': tensor([0.5000])}
    """

    rate: Hyper = dynamic(0.0, within="[0, inf)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> StepState:
        return StepState(new_count([p]))

    def update_leaf(
        self, u: Tensor, s: StepState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, StepState]:
        return u / (1 + h.rate * s.step.to(u.dtype)), StepState(advance(s.step))


@dataclass(frozen=True)
class limit_relative_step(LeafTransform):
    """Keep the learning rate below one over the root of time (Adafactor's relative step).

    u <- u / max(1, lr sqrt(t)), t the updates done, this one included; followed by
    ``scale_by_learning_rate(lr)`` the step is ``min(lr, 1 / sqrt(t)) * u``.

    Args:
        lr: the learning rate of the chain, >= 0.

    Raises:
        ValueError: a negative learning rate.

    Source: arXiv 1804.04235, section 8.

    >>> import torch, gradtx as gx
    >>> tx = gx.limit_relative_step(4.0)
    >>> tx.update({"w": torch.ones(1)}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([0.2500])}
    """

    lr: Hyper = dynamic(within="[0, inf)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> StepState:
        return StepState(new_count([p]))

    def update_leaf(
        self, u: Tensor, s: StepState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, StepState]:
        step = advance(s.step)
        return u / torch.clamp(h.lr * step.to(u.dtype).sqrt(), min=1), StepState(step)
