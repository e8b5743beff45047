"""Chains that one hand-written operator computes as a whole; tried before anything is traced."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar

from torch import Tensor

from ..core import tree
from ..core.protocol import GradientTransformation
from .batch import Batch
from .errors import CannotFuseError
from .memory import Spans


class Matched(ABC):
    """A chain's leaves bound to the operator that updates them.

    Args:
        batch: the leaves, validated: ordinary dense tensors on one device.

    Raises:
        CannotFuseError: two of them share memory.
    """

    label: ClassVar[str]

    def __init__(self, batch: Batch) -> None:
        self.batch = replace(batch, grads=[])  # those may be freed between steps
        self.owned = batch.owned()
        self.layouts = batch.layouts()
        self.addresses = [x.data_ptr() for x in self.owned]
        self.kinds = [(g.dtype, p.shape) for p, g in zip(batch.params, batch.grads, strict=True)]
        self.spans = Spans(self.owned)

    @staticmethod
    @abstractmethod
    def match(tx: GradientTransformation, batch: Batch) -> Matched | None:
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
        owned = batch.owned()
        return (
            len(owned) == len(self.owned)
            and len(batch.params) == len(self.kinds)
            and all(map(operator.is_, owned, self.owned))
            and self.addresses == [x.data_ptr() for x in owned]
            and self.layouts == batch.layouts()
        )

    @property
    @abstractmethod
    def fails_late(self) -> bool:
        """Whether ``step`` may raise."""

    def prepare(self, batch: Batch) -> Callable[[], None]:
        """Check the gradients; the result steps."""
        grads = []
        for i, (g, p, kind) in enumerate(zip(batch.grads, batch.params, self.kinds, strict=True)):
            if (g.dtype, g.shape) != kind or g.device != p.device or type(g) is not Tensor:
                raise CannotFuseError("", f"gradient {i} is of another kind than at the last step")
            grads.append(g.detach().contiguous())
        self.spans.check_disjoint(grads)
        return partial(self.step, batch, grads)

    def name(self, i: int) -> str:
        """The name of leaf ``i``."""
        return tree.names(self.batch.spec)[self.batch.positions[i]]
