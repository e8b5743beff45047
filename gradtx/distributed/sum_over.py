"""``reduce`` among processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class SumOver:
    """``reduce`` over the ranks of a group, which have leaves of their own each."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def sum(self, x: Tensor) -> Tensor:
        """Sum over ranks."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def mean(self, x: Tensor) -> Tensor:
        """Mean over ranks."""
        return self.sum(x) / dist.get_world_size(self._group)

    def max(self, x: Tensor) -> Tensor:
        """Elementwise maximum over ranks."""
        return self._reduced(x, dist.ReduceOp.MAX)

    def _reduced(self, x: Tensor, op: Any) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, op=op, group=self._group)
        return x
