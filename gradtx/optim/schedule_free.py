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

    The chain is ``gx.schedule_free_adamw``. The parameters are y in training and the average x
    after ``eval()``: call it before the model is evaluated or saved, and ``train()`` before the
    next step.

    Args:
        inner_momentum: decay of an average of gradients, in [0, 1); zero for none.
    """


class ScheduleFreeSGD(
    ScheduleFreeOptimizer, recipe=recipes.schedule_free_sgd, rename={"momentum": "b1"}
):
    """Gradient descent without a schedule, to be switched by ``train()`` and ``eval()``.

    The chain is ``gx.schedule_free_sgd``. The parameters are y in training and the average x
    after ``eval()``: call it before the model is evaluated or saved, and ``train()`` before the
    next step.
    """
