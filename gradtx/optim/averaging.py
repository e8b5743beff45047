"""Base of the schedule-free torch optimizer classes: a training and an evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..transforms.schedule_free import evaluation_point, training_point
from .recipe_optimizer import RecipeOptimizer


class ScheduleFreeOptimizer(RecipeOptimizer):
    """Base of the schedule-free classes: the parameters are y in training, x in evaluation.

    Call ``eval()`` before evaluating or saving the model and ``train()`` before training goes on.
    The mode is the group option ``train_mode``, so it is part of the state dict; a new optimizer is
    in training mode.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.tensor([8.0]))
    >>> opt = gx.optim.ScheduleFreeSGD([w], lr=1.0)
    >>> for _ in range(2):
    ...     w.grad = torch.ones(1)
    ...     opt.step()
    >>> opt.eval()
    >>> w.data  # the mean of 7 and 6
    tensor([6.5000])

    Args:
        train_mode: whether the parameters hold the training point.
    """

    modes: ClassVar[Mapping[str, Any]] = {"train_mode": True}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, in the mode of the others."""
        if isinstance(param_group, dict) and self.param_groups:
            param_group.setdefault("train_mode", self.param_groups[0]["train_mode"])
        super().add_param_group(param_group)

    def train(self) -> None:
        """Put the training point y into the parameters; nothing if they hold it already."""
        self._move(True, training_point)

    def eval(self) -> None:
        """Put the average x into the parameters; nothing if they hold it already."""
        self._move(False, evaluation_point)

    @torch._disable_dynamo
    def _move(self, mode: bool, point: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                if group["train_mode"] == mode:
                    continue
                for p in dict.fromkeys(group["params"]):
                    if self.state.get(p):
                        held = self.state[p]["schedule_free"]
                        p.copy_(point(p, held["z"], held["b1"]))
                group["train_mode"] = mode
            self._shards.share()

    def _check_step(self) -> None:
        if not all(group["train_mode"] for group in self.param_groups):
            raise RuntimeError(
                f"{type(self).__name__}: step() in evaluation mode; call train() before training"
            )
