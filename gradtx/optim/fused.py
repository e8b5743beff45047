"""Fused steps for the adapter: the chain as compiled kernels, in place on ``optimizer.state``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..core.protocol import GradientTransformation
from ..fuse import CannotFuseError, NestedEngine
from .leaves import Leaves, Nested

logger = logging.getLogger("gradtx")


class FusedSteps:
    """One engine per chain; a chain that could not be fused twice running is not tried again."""

    def __init__(self) -> None:
        self._engines: dict[GradientTransformation, NestedEngine] = {}
        self._failures: dict[GradientTransformation, int] = {}

    def run(
        self,
        tx: GradientTransformation,
        params: Leaves,
        states: Sequence[Nested],
        values: Sequence[Mapping[str, Any]],
        rows: Sequence[int],
        maximize: Sequence[bool],
        extra: Mapping[str, Tensor],
        others: Callable[[], list[Nested]],
    ) -> str | None:
        """One step in place.

        Args:
            tx: the chain.
            params: parameters that have a gradient, by name.
            states: their complete nested states.
            values: hyperparameters by name, full or short, one row per group.
            rows: per parameter, its row.
            maximize: per parameter, whether its gradient is turned around.
            extra: 0-d tensors for the chain.
            others: gives the nested states of the other parameters.

        Returns:
            None, or why nothing was done.
        """
        if self._failures.get(tx, 0) > 1:
            return "it could not be fused before"
        engine = self._engines.setdefault(tx, NestedEngine(tx))
        defaults = engine.defaults()
        leaves = list(params.values())
        try:
            engine.run(
                leaves,
                [p.grad for p in leaves],
                states,
                lambda: params,
                [_row(defaults, row) for row in values],
                rows,
                maximize,
                extra,
                others(),
            )
        except CannotFuseError as error:
            if tx not in self._failures:
                logger.info("%s runs as torch operations: %s", tx, error)
            self._failures[tx] = self._failures.get(tx, 0) + 1
            return str(error)
        self._failures.pop(tx, None)
        return None


def _row(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Every hyperparameter of the chain by full name; a short name reaches all who have it."""
    return {
        full: values.get(full, values.get(full.rpartition(".")[2], default))
        for full, default in defaults.items()
    }
