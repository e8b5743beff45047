"""Whether an optimizer runs on the shards of this rank, seen at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..distributed.records import group_of, is_distributed, local_part
from ..distributed.sum_over import SumOver
from .arguments import with_mean_value
from .declared_layouts import Declared
from .migration import Bucket, Form
from .sharded import Sharded


class Shards:
    """Whether an optimizer runs on what this rank has of its parameters, and what runs it then.

    Attributes:
        there: whether it does.
        declared: what has been said about how leaves are updated.
    """

    def __init__(self) -> None:
        self._now: Sharded | None = None
        self.there = False
        self.declared = Declared()

    def find(self, optimizer: Any, names: Mapping[Tensor, str], chains: Sequence[Bucket]) -> bool:
        """See whether parameters are DTensors; what is differentiated is left to torch."""
        return self._find(optimizer, names, chains, optimizer._forms.all())

    def _find(
        self,
        optimizer: Any,
        names: Mapping[Tensor, str],
        chains: Sequence[Bucket],
        forms: Mapping[Tensor, Form],
    ) -> bool:
        dtensors = any(map(is_distributed, names)) and not torch.is_grad_enabled()
        self._now = None
        if dtensors:
            self._now = Sharded(optimizer, names, chains, forms, self.declared)
        self.there = dtensors
        return dtensors

    def _current(self, optimizer: Any) -> Sharded | None:
        """What runs the optimizer, with its parameters and chains as they are now."""
        if self._now is None or torch.is_grad_enabled():
            return None
        if self._now.declared != self.declared or not self._now.fits(optimizer):
            forms = self._now.forms(optimizer)
            self._now.export(optimizer)
            self._find(optimizer, optimizer._names(), list(optimizer._buckets()), forms)
        return self._now

    def step(self, optimizer: Any, extra: Mapping[str, Any]) -> bool:
        """Do a step; False if the optimizer does not run on shards."""
        now = self._current(optimizer)
        if now is not None:
            now.step(optimizer, _with_mean_value(optimizer, extra))
        return now is not None

    def init_state(
        self, optimizer: Any, names: Mapping[Tensor, str], chains: Sequence[Bucket]
    ) -> bool:
        """Create states without a step; False if the optimizer does not run on shards."""
        if self._current(optimizer) is None:
            self.find(optimizer, names, chains)
        if self._now is not None:
            self._now.init_state(optimizer)
        return self._now is not None

    def share(self) -> None:
        """Let all ranks have parameters that some have changed beside ``step``."""

    @torch.no_grad()
    def export(self, optimizer: Any) -> Callable[[], None] | None:
        """Let states be those of whole leaves; gives what undoes it. None without shards."""
        now = self._current(optimizer)
        return None if now is None else now.export(optimizer)


def _with_mean_value(optimizer: Any, extra: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments with one loss for all ranks, who have a part of the batch each."""
    leaves = {name: p for p, name in optimizer._names().items()} if "value" in extra else {}
    if not leaves:
        return extra
    who, like = type(optimizer).__name__, local_part(next(iter(leaves.values())))
    chains = map(optimizer.transform_of, optimizer.param_groups)
    return with_mean_value(extra, chains, lambda: SumOver(group_of(who, leaves)), like)
