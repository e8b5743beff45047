"""Leaves that owners update whole: what is sent, and the memory it is put together in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..core.tree import accumulator_dtype
from ..distributed.packing import Collect, GiveOut, Move
from ..distributed.records import Record, local_part
from .cutting import Cut


class Owned:
    """Some leaves, of which this rank owns a few.

    Args:
        group: the ranks.
        records: of the leaves.
        owners: of the leaves.
        cuts: of those of which owners make updates only.

    Attributes:
        wholes: of leaves that this rank owns, parameters or updates.
        updates: of leaves that are cut, this rank's part of the update.
    """

    def __init__(
        self,
        group: Any,
        records: Mapping[Tensor, Record],
        owners: Mapping[Tensor, int],
        cuts: Mapping[Tensor, Cut],
    ) -> None:
        self.group, self.records, self.owners = group, records, owners
        self._params = list(records)
        self._uncut = [p for p in records if p not in cuts]
        self._cuts = cuts
        self.wholes: dict[Tensor, Tensor] = {}
        self.updates: dict[Tensor, Tensor] = {}
        device, rank = local_part(self._params[0]).device, dist.get_rank(group)
        sent = {p: accumulator_dtype(p.dtype) if p in cuts else p.dtype for p in records}
        for p in records:
            if owners[p] == rank:
                whole = torch.zeros(p.shape, dtype=sent[p], device=device)
                self.wholes[p] = whole.requires_grad_(p.requires_grad)
            if p in cuts:
                self.updates[p] = torch.zeros_like(local_part(p).detach(), dtype=sent[p])
        self._gradients = {
            p: torch.zeros(p.shape, dtype=p.dtype, device=device) for p in self.wholes
        }
        moves = {p: Move(record, owners[p], sent[p]) for p, record in records.items()}
        gradients = [move._replace(dtype=p.dtype) for p, move in moves.items()]
        flags = device.type == "cpu"  # elsewhere reading them would wait for the device
        self._collect = Collect(
            group,
            [*gradients, *(moves[p] for p in self._uncut)],
            [*map(self._gradients.get, self._params), *self._memory(self._uncut)],
            device,
            flags,
        )
        wholes = self._memory(self._params)
        self._give_out = GiveOut(group, list(moves.values()), wholes, device)

    def _memory(self, params: Iterable[Tensor]) -> list[Tensor | None]:
        return [self.wholes[p].detach() if p in self.wholes else None for p in params]

    @torch.no_grad()
    def collect(self, grads: Sequence[Tensor | None]) -> dict[Tensor, bool]:
        """Put gradients together, and parameters that updates are added to; all ranks do.

        Args:
            grads: this rank's parts.

        Returns:
            Of which leaves some rank has a gradient.
        """
        found = self._collect.run([*grads, *map(local_part, self._uncut)])
        updates = [self.wholes[p].detach() for p in self._cuts if p in self.wholes]
        if updates:
            torch._foreach_zero_(updates)
        return dict(zip(self._params, found[: len(self._params)], strict=True))

    def gradients(self, there: Mapping[Tensor, bool]) -> dict[Tensor, Tensor | None]:
        """The gradients of leaves that this rank owns."""
        return {p: g if there[p] else None for p, g in self._gradients.items()}

    @torch.no_grad()
    def give_out(self) -> None:
        """Let ranks have their parts of parameters, and of the updates of leaves that are cut."""
        self._give_out.run([self.updates.get(p, local_part(p)) for p in self._params])
