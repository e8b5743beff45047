"""Torch optimizer classes of the schedule-free recipes, with a training and an evaluation mode."""

from __future__ import annotations

from .. import recipes
from .averaging import ScheduleFreeOptimizer


class ScheduleFreeAdamW(
    ScheduleFreeOptimizer,
    recipe=recipes.schedule_free_adamw,
    options="lr betas eps weight_decay warmup_steps r weight_lr_power inner_momentum",
):
    """AdamW without a schedule, to be switched by ``train()`` and ``eval()``.

    The chain is ``gx.schedule_free_adamw``.
    """


class ScheduleFreeSGD(
    ScheduleFreeOptimizer, recipe=recipes.schedule_free_sgd, rename={"momentum": "b1"}
):
    """Gradient descent without a schedule, to be switched by ``train()`` and ``eval()``.

    The chain is ``gx.schedule_free_sgd``.
    """
