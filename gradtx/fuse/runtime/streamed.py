"""Leaves that are written before others are computed: nothing can fail after their first step.

That holds where members ``cannot_raise``. Updates are there for these leaves only while they are
written then, not for all at once, and a segment writes its state as it gives them.
"""

from __future__ import annotations

from collections.abc import Callable

from .batch import Batch
from .plan import LaunchPlan, Strategy


def _prepare(plan: LaunchPlan, batch: Batch) -> Callable[[], None]:
    if not plan.written:
        return plan.compute(batch)
    plan.gradients_of(batch)
    return lambda: plan.compute(batch, ("all",))()


STREAMED = Strategy("streamed", _prepare, variants=("emit", "commit", "all"))
