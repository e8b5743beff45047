"""``reduce`` among processes that find out, by what they send anyway, whether they do the same.

Which gradients a rank has, and whether kernels run there, is known to that rank alone. The first
message of a step has room for it behind what is summed: every rank learns whether all are about to
do the same before anybody has written, and if not, what all of them do then. No rank waits for one
that does nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from .sum_over import SumOver


class DifferError(BaseException):
    """Ranks were about to do different things, and none of them has written anything.

    No ``Exception``, so that nothing in between takes it for a failure.

    Attributes:
        there: of which leaves some rank has a gradient.
        kernels: whether kernels run on all ranks that have anything to do.
    """

    def __init__(self, there: Sequence[bool], kernels: bool) -> None:
        super().__init__("ranks were about to do different things")
        self.there, self.kernels = there, kernels


class OtherRankError(RuntimeError):
    """Another rank cannot do a step, so that none does."""


def other_rank(who: str) -> str:
    """What such an error says."""
    return f"{who}: another rank cannot do this step, and its error says why; nor has this rank"


class _Frame(NamedTuple):
    """What all ranks know of the first message of a step, which is of float64."""

    op: Any
    size: int


class _Notes(NamedTuple):
    """What ranks say of themselves besides the leaves that they have a gradient of."""

    apart: bool = False  # what it sums does not fit into the message, and comes in one of its own
    kernels: bool = False
    operations: bool = False
    failed: bool = False


class Agreed(SumOver):
    """``reduce`` over the ranks of a group, that of kernels; ``operations`` is that of all else.

    Args:
        group: the ranks.
        who: for errors.
    """

    def __init__(self, group: Any, who: str) -> None:
        super().__init__(group)
        self._who = who
        self._frame = _Frame(dist.ReduceOp.SUM, 0)
        self._there: tuple[bool, ...] = ()
        self._waits = self._learns = False
        self.operations = _Operations(self, group)

    def begin(self, there: Sequence[bool] = ()) -> None:
        """A step begins; all ranks do it together.

        Args:
            there: of which leaves this rank has a gradient, of as many as the others say it of.
        """
        self._there, self._waits, self._learns = tuple(there), True, False

    def settle(self) -> None:
        """Say what this rank has, if no sum has gone out: it has nothing to sum.

        Raises:
            DifferError: others have something else.
            OtherRankError: one of them has failed.
        """
        if self._waits:
            self._tell(_Notes())

    def any_of(self) -> Sequence[bool]:
        """Of which leaves some rank has a gradient, where nothing is to be summed yet.

        Raises:
            OtherRankError: a rank has failed.
        """
        try:
            self.settle()
        except DifferError as found:
            return found.there
        return self._there

    def before_writing(self) -> None:
        """Say what this rank has, if what comes next writes before anything is summed."""
        if self._waits and self._there:
            self._tell(_Notes(apart=True, kernels=True))

    def failed(self) -> None:
        """Let the others know that this rank does not go on, if they do not know what it does."""
        if self._waits:
            self._tell(_Notes(failed=True))

    def _reduced(self, x: Tensor, op: Any) -> Tensor:
        return self.reduced_by(x, op, kernels=True)

    def reduced_by(self, x: Tensor, op: Any, kernels: bool) -> Tensor:
        """A reduction, with what is to be said in front of the first one.

        Args:
            x: what this rank has.
            op: of torch.
            kernels: whether kernels ask for it.
        """
        if self._waits:
            fits = x.is_floating_point() and op == self._frame.op
            fits = fits and 0 < x.numel() <= self._frame.size
            notes = _Notes(not fits, kernels, not kernels)
            message = self._tell(notes, x if fits else None)
            if message is not None:
                return message[: x.numel()].view(x.shape).to(x.dtype)
        if self._learns and x.is_floating_point():
            self._frame = _Frame(op, x.numel())
        self._learns = False
        return super()._reduced(x, op)

    @torch._disable_dynamo
    def _tell(self, notes: _Notes, x: Tensor | None = None) -> Tensor | None:
        """Send the first message of a step; gives it if sums are in it."""
        self._waits = False
        size, is_sum = self._frame.size, self._frame.op == dist.ReduceOp.SUM
        marks = _marks(self._there)
        checks = [m * m if is_sum else -m for m in marks]
        said = torch.tensor([*marks, *checks, *notes], dtype=torch.float64, device="cpu")
        message = torch.cat([torch.zeros(size, dtype=torch.float64, device="cpu"), said])
        if x is not None:
            message[: x.numel()] = x.detach().reshape(-1)
        dist.all_reduce(message, op=self._frame.op, group=self._group)
        found = message[size:].tolist()
        of_any = _Notes(*(x > 0 for x in found[4:]))
        ranks = dist.get_world_size(self._group)
        # Equal numbers alone have the square of their sum from the sum of their squares.
        same = all(
            a * a == ranks * b if is_sum else a == -b
            for a, b in zip(found[:2], found[2:4], strict=True)
        )
        if notes.failed:
            return None
        if of_any.failed:
            raise OtherRankError(other_rank(self._who))
        mixed = of_any.kernels and of_any.operations
        if mixed or not same:
            raise DifferError(self._of_any(), not of_any.operations)
        self._learns = of_any.apart
        return None if of_any.apart else message

    def _of_any(self) -> list[bool]:
        """Of which leaves some rank has a gradient, in a message of its own."""
        there = torch.tensor(self._there, dtype=torch.uint8, device="cpu")
        dist.all_reduce(there, op=dist.ReduceOp.MAX, group=self._group)
        return [bool(x) for x in there.tolist()]


class _Operations(SumOver):
    """The same for torch operations, which send other sums than kernels."""

    def __init__(self, agreed: Agreed, group: Any) -> None:
        super().__init__(group)
        self._agreed = agreed

    def _reduced(self, x: Tensor, op: Any) -> Tensor:
        return self._agreed.reduced_by(x, op, kernels=False)


def _marks(there: Sequence[bool]) -> tuple[int, int]:
    """Two numbers that tell patterns apart, so small that sums of their squares are exact."""
    found = zlib.crc32(bytes(there))
    return found >> 16, found & 0xFFFF
