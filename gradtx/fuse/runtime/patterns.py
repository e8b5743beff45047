"""Chains that one hand-written operator computes as a whole; tried before anything is traced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar

from torch import Tensor

from ...core import tree
from ...core.protocol import GradientTransformation
from ..frontend.memory import Spans
from .batch import Batch
from .door import Gradients, Owned, order


class Matched(ABC):
    """A chain's leaves bound to the operator that updates them.

    Args:
        batch: the leaves, validated: ordinary dense tensors on one device.
        spans: all that is written.
    """

    label: ClassVar[str]

    def __init__(self, batch: Batch, spans: Spans) -> None:
        self.batch = replace(batch, grads=[])  # those may be freed between steps
        self.owned = Owned(batch.params, batch.every_state())
        self.dtypes = [g.dtype for g in batch.grads]
        strides = [order(p, True) for p in batch.params]
        self.gradients = Gradients(batch.params, self.dtypes, strides, spans)

    @staticmethod
    @abstractmethod
    def match(tx: GradientTransformation, batch: Batch, spans: Spans) -> Matched | None:
        """The bound leaves, or None if the operator does not compute this chain on them."""

    @abstractmethod
    def step(self, batch: Batch, grads: list[Tensor]) -> None:
        """One step in place.

        Args:
            batch: these leaves.
            grads: their gradients, contiguous.

        Raises:
            ValueError: what the chain raises; nothing has changed.
        """

    @abstractmethod
    def moved(self) -> int:
        """Bytes that a step reads and writes."""

    def fits(self, batch: Batch) -> bool:
        """Whether a batch has the same tensors at the same addresses."""
        same = len(batch.params) == len(self.dtypes) and self.owned.is_(batch.owned())
        return same and self.owned.lies_still()

    @property
    @abstractmethod
    def fails_late(self) -> bool:
        """Whether ``step`` may raise."""

    def prepare(self, batch: Batch) -> Callable[[], None]:
        """Check the gradients; the result steps."""
        grads, _ = self.gradients.admit(batch.grads)
        return partial(self.step, batch, [g.detach() for g in grads])

    def name(self, i: int) -> str:
        """The name of leaf ``i``."""
        return tree.names(self.batch.spec)[self.batch.positions[i]]
