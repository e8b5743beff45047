"""Leaves of a chain that sums over all of them, updated where ranks have shards of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.protocol import GradientTransformation
from ..distributed.agreed import Agreed, DifferError
from ..distributed.sum_over import SumOver
from .inner import Inner, Part

logger = logging.getLogger("gradtx")


class Summed:
    """Runs a chain on shards, on all ranks alike or on none.

    A gradient that only other ranks have is zero here. A rank without any takes part in sums. Where
    kernels do not run on one of the ranks, torch operations do on all.

    Args:
        optimizer: the one that has the groups.
        parts: what it updates.
        chain: what they go through.
        group: the ranks that have all of every leaf between them.
        kernels: whether it may run in kernels.
    """

    def __init__(
        self,
        optimizer: Any,
        parts: Iterable[Part],
        chain: GradientTransformation,
        group: Any,
        kernels: bool,
    ) -> None:
        self.inner = Inner(optimizer, parts)
        self._chain, self._kernels, self._refused = chain, kernels, 0
        self._tensors = self.inner.tensors
        # Elsewhere reading what others have would wait for the device.
        on_cpu = all(x.device.type == "cpu" for x in self._tensors.values())
        self.reduce = Agreed(group, type(optimizer).__name__) if on_cpu else None
        self.inner.join(chain, SumOver(group) if self.reduce is None else self.reduce, kernels)

    def begin(self, grads: Mapping[Any, Tensor | None]) -> None:
        """A step begins, for which this rank has these gradients; all ranks do it together."""
        if self.reduce is not None:
            self.reduce.begin([grads[p] is not None for p in self._tensors])

    def failed(self) -> None:
        """Let the others know that this rank does not go on, if they do not know what it does."""
        if self.reduce is not None:
            self.reduce.failed()

    def step(
        self, grads: Mapping[Any, Tensor | None], extra: Mapping[str, Any]
    ) -> dict[Any, Tensor | None]:
        """Update the leaves; gives the gradients that it was done with."""
        own = {p: grads[p] for p in self._tensors}
        kernels = True
        while True:
            try:
                self._try(own, extra)
            except DifferError as found:
                each = zip(own.items(), found.there, strict=True)
                own = {p: self._zeros(p) if some and g is None else g for (p, g), some in each}
                if not found.kernels and self._kernels and kernels:
                    kernels = False
                    self.inner.only_operations(self._chain, True)
                self.begin(own)
            else:
                break
        if not kernels:
            self._note_refusal()
        return own

    def _try(self, grads: Mapping[Any, Tensor | None], extra: Mapping[str, Any]) -> None:
        """One step if others are about to do it as this rank is.

        Raises:
            DifferError: they are not, and nothing has been written.
        """
        if self.reduce is None or any(g is not None for g in grads.values()):
            self.inner.step(grads, extra)
        else:
            self.reduce.settle()

    def _note_refusal(self) -> None:
        """Use kernels again at the next step, unless they have been refused twice."""
        self._refused += 1
        if self._refused == 1:
            logger.info(
                "%s runs as torch operations on all ranks: kernels do not run on one of them",
                self._chain,
            )
            self.inner.only_operations(self._chain, False)

    def _zeros(self, p: Any) -> Tensor:
        return torch.zeros_like(self._tensors[p].detach())
