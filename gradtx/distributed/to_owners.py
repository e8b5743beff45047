"""Gradients of DistributedDataParallel that only their owners need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .comm_hook import CommHook


class ToOwners:
    """A communication hook that averages every gradient on its owner alone.

    Elsewhere a gradient stays what this rank has computed. Half of an all-reduce travels.

    Args:
        owners: of parameters; it may change between steps.
        group: the ranks.
    """

    __name__ = "to_owners"
    # DistributedDataParallel looks at the names and annotations of the arguments.
    __signature__ = CommHook.__signature__

    def __init__(self, owners: Mapping[Tensor, int], group: Any) -> None:
        self.__qualname__ = self.__name__
        self._owners, self._group = owners, group
        self._rank, self._ranks = dist.get_rank(group), dist.get_world_size(group)

    def __call__(self, state: Any, bucket: Any) -> torch.futures.Future[Tensor]:
        """Send the gradients of a bucket to their owners."""
        buffer = bucket.buffer().div_(self._ranks)
        by_rank: list[list[Tensor]] = [[] for _ in range(self._ranks)]
        for p, g in zip(bucket.parameters(), bucket.gradients(), strict=True):
            # As it lies in memory, which is dense: it may be in another order of dimensions.
            flat = g.as_strided((g.numel(),), (1,), g.storage_offset())
            by_rank[self._owners[p]].append(flat)
        own, by_rank[self._rank] = by_rank[self._rank], []
        sent = torch.cat([buffer[:0], *(g for some in by_rank for g in some)])
        size, others = sum(g.numel() for g in own), self._ranks - 1
        found = buffer.new_empty(size * others)
        work = dist.all_to_all_single(
            found,
            sent,
            [0 if rank == self._rank else size for rank in range(self._ranks)],
            [sum(g.numel() for g in some) for some in by_rank],
            group=self._group,
            async_op=True,
        )

        def add(_: Any) -> Tensor:
            total = found.view(others, size).sum(0) if others else found
            for g, more in zip(own, total.split([g.numel() for g in own]), strict=True):
                g.add_(more)
            return buffer

        return work.get_future().then(add)


def check_one_optimizer(who: str, module: nn.Module, names: Mapping[Tensor, str]) -> None:
    """Raise unless an optimizer has just the trained parameters of a module.

    Raises:
        ValueError: names a parameter that only one of them has.
    """
    named = module.named_parameters()
    trained: dict[Tensor, str] = {p: name for name, p in named if p.requires_grad}
    for p, name in trained.items():
        if p not in names:
            raise ValueError(
                f"{who}: parameter {name!r} of the model is not in the optimizer, so that its "
                "gradient has no owner; give the optimizer a group with it, or leave model out"
            )
    for p, name in names.items():
        if p.requires_grad and p not in trained:
            raise ValueError(
                f"{who}: leaf {name!r} of the optimizer is not in the model, which would not "
                "average its gradient; leave model out"
            )
