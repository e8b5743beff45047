"""What crosses leaves and shards: the one place where an update may need its neighbours.

Transforms never call a collective. They ask the ``reduce`` object that ``update`` receives; in one
process it is ``LOCAL``, which returns its argument.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


class Reduce(Protocol):
    """Combine a partial result of this shard with those of the others."""

    def sum(self, x: Tensor) -> Tensor:
        """Sum over shards."""

    def mean(self, x: Tensor) -> Tensor:
        """Mean over shards."""

    def max(self, x: Tensor) -> Tensor:
        """Elementwise maximum over shards."""


@runtime_checkable
class Asks(Protocol):
    """What may turn back at the first reduction, as long as nothing has been written."""

    def before_writing(self) -> None:
        """Turn back now if need be."""


class LocalReduce:
    """One process holds everything: every reduction is the identity."""

    def sum(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x

    mean = sum
    max = sum


LOCAL: Reduce = LocalReduce()
