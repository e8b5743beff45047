"""``reduce`` among processes that find out, by what they send anyway, whether they do the same.

Which gradients a rank has, and whether kernels run there, is known to that rank alone. The first
message of a step has room for it behind what is summed: every rank learns whether all are about to
do the same before anybody has written, and if not, what all of them do then. No rank waits for one
that does nothing.
"""

from __future__ import annotations

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
    """What all ranks know of the first message of a step."""

    op: Any
    dtype: torch.dtype
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
        self._frame = _Frame(dist.ReduceOp.SUM, torch.float64, 0)
        self._there: tuple[bool, ...] = ()
        self._waits = self._learns = False
        self._notes: dict[Any, Tensor] = {}
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
            fits = (x.dtype, op) == (self._frame.dtype, self._frame.op)
            fits = fits and 0 < x.numel() <= self._frame.size
            notes = _Notes(not fits, kernels, not kernels)
            message = self._tell(notes, x if fits else None)
            if message is not None:
                return message[: x.numel()].view(x.shape)
        if self._learns and x.is_floating_point():
            self._frame = _Frame(op, x.dtype, x.numel())
        self._learns = False
        return super()._reduced(x, op)

    @torch._disable_dynamo
    def _tell(self, notes: _Notes, x: Tensor | None = None) -> Tensor | None:
        """Send the first message of a step; gives it if sums are in it."""
        self._waits = False
        size, count = self._frame.size, len(self._there)
        if (key := (self._there, notes)) not in self._notes:
            if len(self._notes) > _MOST:
                self._notes.clear()
            said = [*self._there, *(not x for x in self._there), *notes]
            self._notes[key] = torch.tensor(said, dtype=torch.float64, device="cpu")
        message = torch.zeros(size + len(self._notes[key]), dtype=self._frame.dtype, device="cpu")
        if x is not None:
            message[: x.numel()] = x.detach().reshape(-1)
        message[size:] = self._notes[key]
        dist.all_reduce(message, op=self._frame.op, group=self._group)
        found = (message[size:] > 0).tolist()
        there, lacking = found[:count], found[count : 2 * count]
        of_any = _Notes(*found[2 * count :])
        if notes.failed:
            return None
        if of_any.failed:
            raise OtherRankError(other_rank(self._who))
        mixed = of_any.kernels and of_any.operations
        if mixed or any(a and b for a, b in zip(there, lacking, strict=True)):
            raise DifferError(there, not of_any.operations)
        self._learns = of_any.apart
        return None if of_any.apart else message


class _Operations(SumOver):
    """The same for torch operations, which send other sums than kernels."""

    def __init__(self, agreed: Agreed, group: Any) -> None:
        super().__init__(group)
        self._agreed = agreed

    def _reduced(self, x: Tensor, op: Any) -> Tensor:
        return self._agreed.reduced_by(x, op, kernels=False)


_MOST = 64  # patterns of gradients that are kept as tensors
