"""Leaves that are written before others are computed: nothing can fail after their first step."""

from __future__ import annotations

from collections.abc import Callable

from .batch import Batch
from .plan import LaunchPlan


class Streamed(LaunchPlan):
    """Leaves with members that ``cannot_raise``.

    Updates are there for these leaves only while they are written, not for all at once, and a
    segment writes its state as it gives them.
    """

    variants = ("emit", "commit", "all")

    def prepare(self, batch: Batch) -> Callable[[], None]:
        if self.phases == ("all",):
            self._gradients(batch)

            def step() -> None:
                super(Streamed, self).prepare(batch)()

            return step
        write = super().prepare(batch)

        def first() -> None:
            write()
            self.phases = ("all",)

        return first
