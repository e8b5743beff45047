"""Many tensors in one message: what goes to every rank lies together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from .records import Record

_FAILED = 2  # what a rank that cannot go on says of all tensors
_ALIGN = 16  # bytes, so that every dtype may begin there


class Piece(NamedTuple):
    """A tensor in a message."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes, rounded up so that the next one is aligned."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return -(-size // _ALIGN) * _ALIGN


class Memory:
    """Bytes that messages lie in, one after another.

    Args:
        device: where they are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._size = device, 0

    def reserve(self, size: int) -> None:
        """Say that a message takes so many; not once there are some."""
        self._size = max(self._size, size)

    @cached_property
    def buffer(self) -> Tensor:
        """As many as the largest message takes."""
        return torch.zeros(self._size, dtype=torch.uint8, device=self._device)


class Slot:
    """Memory for one exchange at a time: what goes out, and what comes in.

    Args:
        device: where it is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.out, self.into = Memory(device), Memory(device)


class Messages:
    """A message to or from every rank, and its tensors as views of memory.

    Args:
        pieces: by rank.
        own: the rank that needs no message.
        memory: where it lies.
    """

    def __init__(self, pieces: Sequence[Sequence[Piece]], own: int, memory: Memory) -> None:
        self.sizes = [
            0 if rank == own else sum(piece.nbytes for piece in some)
            for rank, some in enumerate(pieces)
        ]
        self._pieces = [piece for rank, some in enumerate(pieces) if rank != own for piece in some]
        self._memory = memory
        memory.reserve(sum(self.sizes))

    @property
    def buffer(self) -> Tensor:
        """All of it."""
        return self._memory.buffer[: sum(self.sizes)]

    @cached_property
    def views(self) -> list[Tensor]:
        """The tensors."""
        out, at, buffer = [], 0, self.buffer
        for piece in self._pieces:
            size = math.prod(piece.shape) * piece.dtype.itemsize
            out.append(buffer[at : at + size].view(piece.dtype).view(piece.shape))
            at += piece.nbytes
        return out


class Exchange:
    """One all-to-all between the ranks of a group, for tensors of fixed shapes.

    Args:
        group: the ranks.
        sends: this rank's tensors by the rank that they go to.
        receives: the tensors that come from every rank.
        slot: memory; exchanges that share it end before the next one starts.
        sends_any: False where no rank sends anything to another one, which all must know.
    """

    def __init__(
        self,
        group: Any,
        sends: Sequence[Sequence[Piece]],
        receives: Sequence[Sequence[Piece]],
        slot: Slot,
        sends_any: bool = True,
    ) -> None:
        self._group, self._sends_any = group, sends_any
        self._own = dist.get_rank(group)
        self._out = Messages(sends, self._own, slot.out)
        self._in = Messages(receives, self._own, slot.into)
        self._work: Any = None
        self._receives: list[Tensor] = []

    def start(
        self, sends: Sequence[Sequence[Tensor]], receives: Sequence[Sequence[Tensor]]
    ) -> None:
        """Send tensors to those that ``finish`` copies them into; all ranks do both together."""
        if self._sends_any:
            _copy(self._out.views, _others(sends, self._own))
            self._work = dist.all_to_all_single(
                self._in.buffer,
                self._out.buffer,
                self._in.sizes,
                self._out.sizes,
                group=self._group,
                async_op=True,
            )
            self._receives = _others(receives, self._own)
        _copy(receives[self._own], sends[self._own])

    def finish(self) -> None:
        """Wait for what others have sent."""
        if self._work is not None:
            self._work.wait()
            self._work = None
            _copy(self._receives, self._in.views)


def _others(by_rank: Sequence[Sequence[Tensor]], own: int) -> list[Tensor]:
    return [x for rank, some in enumerate(by_rank) if rank != own for x in some]


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(list(targets), list(sources))


class Move(NamedTuple):
    """A tensor that its owner has whole and ranks have in boxes.

    Attributes:
        record: its boxes.
        owner: who has it whole; None where all do.
        dtype: in which it travels.
    """

    record: Record
    owner: int | None
    dtype: torch.dtype


class Collect:
    """Puts tensors together at their owners.

    Args:
        group: the ranks.
        moves: the tensors, in the same order on all ranks.
        wholes: for those that this rank owns, where they go; None for others.
        slot: memory for messages.
        flags: whether ranks may lack tensors, and say which in the message, if there is one.
    """

    def __init__(
        self,
        group: Any,
        moves: Sequence[Move],
        wholes: Sequence[Tensor | None],
        slot: Slot,
        flags: bool,
    ) -> None:
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        sent = [i for i, m in enumerate(moves) if rank in m.record.senders]
        self._mine = [[i for i in sent if moves[i].owner in (r, None)] for r in range(size)]
        self._flags = flags = flags and not _stay(moves)
        self._device = device = slot.device
        said = [
            torch.zeros(len(moves) if flags else 0, dtype=torch.uint8, device=device)
            for _ in range(size)
        ]
        self._receives = [[said[r], *_boxes_of(moves, wholes, r)] for r in range(size)]
        self._shapes = [(move.record.boxes[rank].shape, move.dtype) for move in moves]
        sends = [
            [
                Piece((len(moves) if flags else 0,), torch.uint8),
                *(Piece(*self._shapes[i]) for i in mine),
            ]
            for mine in self._mine
        ]
        sends_any = not _stay(moves)
        self._exchange = Exchange(group, sends, _pieces(self._receives), slot, sends_any)
        self._said = said
        self._present: list[bool] = []

    def start(self, locals_: Sequence[Tensor | None], failed: bool = False) -> None:
        """Send what this rank has to who puts it together; all ranks do it together.

        What some lack is zero there.

        Args:
            locals_: the tensors.
            failed: whether this rank cannot go on.
        """
        self._present = present = [x is not None for x in locals_]
        zeros = {
            i: torch.zeros(self._shapes[i][0], dtype=self._shapes[i][1], device=self._device)
            for i, there in enumerate(present)
            if not there
        }
        flags = [_FAILED] * len(present) if failed else present
        said = torch.tensor(flags if self._flags else [], dtype=torch.uint8, device=self._device)
        sends = [
            [said, *(zeros[i] if locals_[i] is None else locals_[i] for i in mine)]
            for mine in self._mine
        ]
        self._exchange.start(sends, self._receives)  # type: ignore[arg-type]

    def finish(self) -> list[bool] | None:
        """Wait for what others have; says which tensors any rank has, None if one has failed."""
        self._exchange.finish()
        if self._flags:
            found = torch.stack(self._said).amax(0).tolist()
            return None if _FAILED in found else [bool(there) for there in found]
        return self._present


class GiveOut:
    """Gives every rank its boxes of tensors that owners have whole.

    Args:
        group: the ranks.
        moves: the tensors, in the same order on all ranks.
        wholes: those that this rank owns; None for others.
        slot: memory for messages.
    """

    def __init__(
        self,
        group: Any,
        moves: Sequence[Move],
        wholes: Sequence[Tensor | None],
        slot: Slot,
    ) -> None:
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        there = [i for i, m in enumerate(moves) if m.record.boxes[rank].numel]
        giver = [rank if m.owner is None else m.owner for m in moves]
        self._mine = [[i for i in there if giver[i] == r] for r in range(size)]
        others = [None if m.owner is None else x for m, x in zip(moves, wholes, strict=True)]
        self._sends = [
            _boxes_of(moves, wholes if r == rank else others, r, everyone=True) for r in range(size)
        ]
        receives = [
            [Piece(moves[i].record.boxes[rank].shape, moves[i].dtype) for i in mine]
            for mine in self._mine
        ]
        sends_any = not _stay([m for m in moves if m.owner is not None])
        self._exchange = Exchange(group, _pieces(self._sends), receives, slot, sends_any)

    def start(self, locals_: Sequence[Tensor]) -> None:
        """Send boxes; all ranks do it together, and ``finish`` overwrites those of this rank."""
        receives = [[locals_[i] for i in mine] for mine in self._mine]
        self._exchange.start(self._sends, receives)

    def finish(self) -> None:
        """Wait for the boxes of this rank."""
        self._exchange.finish()


def _stay(moves: Sequence[Move]) -> bool:
    """Whether owners have everything already, and nobody else anything."""
    return all(m.owner is not None and m.record.holder == m.owner for m in moves)


def _boxes_of(
    moves: Sequence[Move], wholes: Sequence[Tensor | None], rank: int, everyone: bool = False
) -> list[Tensor]:
    """The boxes of a rank as views of the whole tensors that there are here."""
    out = []
    for move, whole in zip(moves, wholes, strict=True):
        box = move.record.boxes[rank]
        if whole is not None and box.numel and (everyone or rank in move.record.senders):
            out.append(box.of(whole))
    return out


def _pieces(by_rank: Sequence[Sequence[Tensor]]) -> list[list[Piece]]:
    return [[Piece(tuple(x.shape), x.dtype) for x in some] for some in by_rank]
