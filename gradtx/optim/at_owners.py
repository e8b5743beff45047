"""What owners update of an optimizer: leaves travel in buckets while others are computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..core.protocol import GradientTransformation
from ..distributed.agreed import Agreed, OtherRankError
from ..distributed.packing import Slot
from ..distributed.records import Record, local_part
from ..distributed.sum_over import SumOver
from .cutting import Cut
from .inner import Inner
from .leaves import Nested
from .owned import Owned


class AtOwners:
    """Leaves that owners update whole, in buckets.

    While one bucket is computed, the gradients of the next one and the results of the one before
    are on their way: two exchanges, never more.

    Args:
        who: for errors.
        group: the ranks.
        records: of the leaves.
        owners: of the leaves; None where all ranks do it.
        cuts: of those of which owners make updates only.
        buckets: the leaves, in the order in which they are updated.

    Attributes:
        wholes: of leaves that this rank owns, parameters or updates.
        updates: of leaves that are cut, this rank's part of the update.
        inners: what updates each bucket.
    """

    def __init__(
        self,
        who: str,
        group: Any = None,
        records: Mapping[Tensor, Record] = MappingProxyType({}),
        owners: Mapping[Tensor, int | None] = MappingProxyType({}),
        cuts: Mapping[Tensor, Cut] = MappingProxyType({}),
        buckets: Sequence[Sequence[Tensor]] = (),
    ) -> None:
        self._who = who
        self.group, self.records, self.owners, self.buckets = group, records, owners, buckets
        self._owned: list[Owned] = []
        if records:
            device = local_part(next(iter(records))).device
            slots = Slot(device), Slot(device)
            of_each = ({p: records[p] for p in some} for some in buckets)
            self._owned = [Owned(who, group, some, owners, cuts, slots) for some in of_each]
        self.wholes = {p: x for owned in self._owned for p, x in owned.wholes.items()}
        self.updates = {p: x for owned in self._owned for p, x in owned.updates.items()}
        self.inners: list[Inner] = []
        self._nothing: Mapping[Tensor, Sequence[Tensor]] = {}

    def run(self, inners: Sequence[Inner], nothing: Mapping[Tensor, Sequence[Tensor]]) -> None:
        """Say what updates the buckets.

        Args:
            inners: for each of them.
            nothing: leaves without elements, with those that they stand for where this rank has
                none of them.
        """
        self.inners, self._nothing = list(inners), nothing
        self._of = {p: inner for inner in inners for p in inner.tensors}

    def join(self, chains: Iterable[tuple[GradientTransformation, bool]]) -> None:
        """Let the leaves of chains be summed with those of other owners.

        Args:
            chains: each with whether kernels run it.
        """
        for tx, kernels in chains:
            for owned, inner in zip(self._owned, self.inners, strict=True):
                # Elsewhere reading what others do would wait for the device.
                on_cpu = owned.device.type == "cpu"
                reduce = Agreed(self.group, self._who) if on_cpu else SumOver(self.group)
                inner.join_owners(tx, reduce, kernels)

    def failed(self) -> None:
        """Let the others know that this rank does not do a step."""
        for owned in self._owned:
            owned.start_collecting(dict.fromkeys(self.records), failed=True)
            try:
                owned.collected()
            except OtherRankError:
                break

    def step(
        self, grads: Mapping[Tensor, Tensor | None], extra: Mapping[str, Any]
    ) -> dict[Tensor, bool]:
        """Update all leaves; says of which some rank has a gradient. All ranks do it together.

        Args:
            grads: this rank's parts.
            extra: what chains get besides, of whole leaves.

        Raises:
            OtherRankError: another rank cannot do it.
        """
        there: dict[Tensor, bool] = {}
        failed: BaseException | None = None
        for first in self._owned[:1]:
            first.start_collecting(grads)
        for i, (owned, inner) in enumerate(zip(self._owned, self.inners, strict=True)):
            there |= owned.collected()
            for following in self._owned[i + 1 : i + 2]:
                following.start_collecting(grads)
            try:  # other ranks wait for this one, whatever happens
                if failed is None:
                    inner.step(owned.gradients(there) | self._of_nothing(inner, there), extra)
            except BaseException as error:
                failed = error
            for before in self._owned[max(i - 1, 0) : i]:
                before.given_out()
            owned.start_giving_out()
        for last in self._owned[-1:]:
            last.given_out()
        if failed is not None:
            raise failed
        return there

    def _of_nothing(
        self, inner: Inner, there: Mapping[Tensor, bool]
    ) -> dict[Tensor, Tensor | None]:
        """Gradients of leaves without elements: where no leaf has a gradient there is no step."""
        return {
            x: torch.zeros_like(x) if any(there[p] for p in leaves) else None
            for x, leaves in self._nothing.items()
            if x in inner.tensors
        }

    def collect(self) -> None:
        """Put parameters together where updates are added to them; all ranks do it together."""
        for owned in self._owned:
            owned.start_collecting(dict.fromkeys(self.records))
            owned.collected()

    def state(self, p: Tensor) -> Nested | None:
        """The state of a leaf that this rank owns."""
        return self._of[p].state(p) if p in self.wholes else None

    def put(self, p: Tensor, state: Nested) -> None:
        """Replace the state of a leaf that this rank owns."""
        self._of[p].put(p, state)
