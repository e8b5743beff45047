"""How the adapter runs chains: compiled kernels in place on the state, or their fallback."""

from __future__ import annotations

import logging
from typing import Any

from ..core.protocol import GradientTransformation
from ..core.reduce import Reduce
from ..fuse import CannotFuseError, Fallback, NestedEngine, Prepared

logger = logging.getLogger("gradtx")


class FusedSteps:
    """One engine per chain; a chain that could not be fused twice running is not tried again.

    Attributes:
        reducing: what joins leaves with those of other processes, by chain.
        purely: of these chains, what is not to be fused here as it is not elsewhere.
    """

    def __init__(self) -> None:
        self.reducing: dict[GradientTransformation, Reduce] = {}
        self.purely: set[GradientTransformation] = set()
        self._engines: dict[GradientTransformation, NestedEngine] = {}
        self._fallbacks: dict[tuple[GradientTransformation, str], Fallback] = {}
        self._failures: dict[GradientTransformation, int] = {}
        self._passed_over: set[GradientTransformation] = set()

    def engine(self, tx: GradientTransformation) -> NestedEngine:
        """What runs a chain."""
        if tx not in self._engines:
            self._engines[tx] = NestedEngine(tx, self.reducing.get(tx))
        return self._engines[tx]

    def put(self, tx: GradientTransformation, engine: NestedEngine) -> None:
        """Let this engine run a chain."""
        self._engines[tx] = engine

    def fallback(self, tx: GradientTransformation, how: str) -> Fallback:
        """What runs a chain that is not fused."""
        if (tx, how) not in self._fallbacks:
            self._fallbacks[tx, how] = Fallback(tx, how)
        return self._fallbacks[tx, how]

    def prepare(
        self, tx: GradientTransformation, how: str, compiled: bool = False, **step: Any
    ) -> Prepared | str:
        """A step of ``NestedEngine.prepare``, or why there is none.

        Args:
            tx: the chain.
            how: its fallback, for the log.
            compiled: whether multi-tensor operations will not do in place of compiled passes.
            step: arguments of ``NestedEngine.prepare``.
        """
        if self._failures.get(tx, 0) > 1:
            return "it could not be fused before"
        engine = self.engine(tx)
        try:
            prepared = engine.prepare(**step)
        except CannotFuseError as error:
            self._say_passed_over(tx, engine)
            if tx not in self._failures:
                logger.info("%s runs %s: %s", tx, self.fallback(tx, how).runs, error)
            self._failures[tx] = self._failures.get(tx, 0) + 1
            return str(error)
        self._failures.pop(tx, None)
        self._say_passed_over(tx, engine)
        return engine.lacks if compiled and engine.lacks is not None else prepared

    def _say_passed_over(self, tx: GradientTransformation, engine: NestedEngine) -> None:
        """Log once which kernel for the whole chain does not fit, and why."""
        if engine.passed_over and tx not in self._passed_over:
            self._passed_over.add(tx)
            for kernel, why in engine.passed_over.items():
                logger.info("%s runs without %s: %s", tx, kernel, why)
