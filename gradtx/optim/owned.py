"""Leaves that owners update whole: what is sent, and the memory it is put together in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..core.tree import accumulator_dtype
from ..distributed.agreed import OtherRankError, other_rank
from ..distributed.packing import Collect, GiveOut, Move, Slot
from ..distributed.records import Record, local_part
from .cutting import Cut


class Owned:
    """Some leaves, of which this rank owns a few.

    Args:
        who: for errors.
        group: the ranks.
        records: of the leaves.
        owners: of the leaves; None where all ranks do it.
        cuts: of those of which owners make updates only.
        slots: memory for what goes to owners, and for what comes from them.

    Attributes:
        device: where they are.
        wholes: of leaves that this rank owns, parameters or updates.
        updates: of leaves that are cut, this rank's part of the update.
    """

    def __init__(
        self,
        who: str,
        group: Any,
        records: Mapping[Tensor, Record],
        owners: Mapping[Tensor, int | None],
        cuts: Mapping[Tensor, Cut],
        slots: tuple[Slot, Slot],
    ) -> None:
        self._who, self._params, self.device = who, list(records), slots[0].device
        self._uncut = [p for p in records if p not in cuts]
        self._cuts = [p for p in records if p in cuts]
        self.wholes: dict[Tensor, Tensor] = {}
        self.updates: dict[Tensor, Tensor] = {}
        device, rank = slots[0].device, dist.get_rank(group)
        sent = {p: accumulator_dtype(p.dtype) if p in cuts else p.dtype for p in records}
        for p in records:
            if owners[p] in (rank, None):
                whole = torch.zeros(p.shape, dtype=sent[p], device=device)
                self.wholes[p] = any_gradient(whole.requires_grad_(p.requires_grad))
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
            slots[0],
            flags,
        )
        wholes = self._memory(self._params)
        self._give_out = GiveOut(group, list(moves.values()), wholes, slots[1])

    def _memory(self, params: Iterable[Tensor]) -> list[Tensor | None]:
        return [self.wholes[p].detach() if p in self.wholes else None for p in params]

    @torch.no_grad()
    def start_collecting(self, grads: Mapping[Tensor, Tensor | None], failed: bool = False) -> None:
        """Send gradients, and parameters that updates are added to; all ranks do.

        Args:
            grads: this rank's parts.
            failed: whether this rank cannot do the step.
        """
        own = [grads[p] for p in self._params]
        self._collect.start([*own, *map(local_part, self._uncut)], failed)

    @torch.no_grad()
    def collected(self) -> dict[Tensor, bool]:
        """Put them together; says of which leaves some rank has a gradient.

        Raises:
            OtherRankError: a rank has failed.
        """
        found = self._collect.finish()
        if found is None:
            raise OtherRankError(other_rank(self._who))
        updates = [self.wholes[p].detach() for p in self._cuts if p in self.wholes]
        if updates:
            torch._foreach_zero_(updates)
        return dict(zip(self._params, found[: len(self._params)], strict=True))

    def gradients(self, there: Mapping[Tensor, bool]) -> dict[Tensor, Tensor | None]:
        """The gradients of leaves that this rank owns."""
        return {p: g if there[p] else None for p, g in self._gradients.items()}

    @torch.no_grad()
    def start_giving_out(self) -> None:
        """Let ranks have their parts of parameters, and of the updates of leaves that are cut."""
        self._give_out.start([self.updates.get(p, local_part(p)) for p in self._params])

    @torch.no_grad()
    def given_out(self) -> None:
        """Wait for the parts of this rank."""
        self._give_out.finish()


def any_gradient(x: Tensor) -> Tensor:
    """A tensor whose gradient may have another dtype: updates are wider than parameters."""
    x.grad_dtype = None
    return x
