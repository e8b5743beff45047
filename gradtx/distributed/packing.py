"""Many tensors in one message: what goes to every rank lies together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from .records import Record

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


class Messages:
    """Memory for a message to or from every rank, and its tensors as views of it.

    Args:
        pieces: by rank.
        own: the rank that needs no message.
        device: of the memory.
    """

    def __init__(self, pieces: Sequence[Sequence[Piece]], own: int, device: torch.device) -> None:
        self.sizes = [
            0 if rank == own else sum(piece.nbytes for piece in some)
            for rank, some in enumerate(pieces)
        ]
        self.buffer = torch.zeros(sum(self.sizes), dtype=torch.uint8, device=device)
        self.views: list[Tensor] = []
        at = 0
        for rank, some in enumerate(pieces):
            for piece in some if rank != own else ():
                size = math.prod(piece.shape) * piece.dtype.itemsize
                flat = self.buffer[at : at + size].view(piece.dtype)
                self.views.append(flat.view(piece.shape))
                at += piece.nbytes


class Exchange:
    """One all-to-all between the ranks of a group, for tensors of fixed shapes.

    Args:
        group: the ranks.
        sends: this rank's tensors by the rank that they go to.
        receives: the tensors that come from every rank.
        device: where they are.
        sends_any: False where no rank sends anything to another one, which all must know.
    """

    def __init__(
        self,
        group: Any,
        sends: Sequence[Sequence[Piece]],
        receives: Sequence[Sequence[Piece]],
        device: torch.device,
        sends_any: bool = True,
    ) -> None:
        self._group, self._sends_any = group, sends_any
        self._own = dist.get_rank(group)
        self._out = Messages(sends, self._own, device)
        self._in = Messages(receives, self._own, device)

    def run(self, sends: Sequence[Sequence[Tensor]], receives: Sequence[Sequence[Tensor]]) -> None:
        """Copy the sent tensors into those that receive them; all ranks do it together."""
        if self._sends_any:
            _copy(self._out.views, _others(sends, self._own))
            dist.all_to_all_single(
                self._in.buffer,
                self._out.buffer,
                self._in.sizes,
                self._out.sizes,
                group=self._group,
            )
            _copy(_others(receives, self._own), self._in.views)
        _copy(receives[self._own], sends[self._own])


def _others(by_rank: Sequence[Sequence[Tensor]], own: int) -> list[Tensor]:
    return [x for rank, some in enumerate(by_rank) if rank != own for x in some]


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(list(targets), list(sources))


class Move(NamedTuple):
    """A tensor that its owner has whole and ranks have in boxes.

    Attributes:
        record: its boxes.
        owner: who has it whole.
        dtype: in which it travels.
    """

    record: Record
    owner: int
    dtype: torch.dtype


class Collect:
    """Puts tensors together at their owners.

    Args:
        group: the ranks.
        moves: the tensors, in the same order on all ranks.
        wholes: for those that this rank owns, where they go; None for others.
        device: where they are.
        flags: whether ranks may lack tensors, and say which in the message, if there is one.
    """

    def __init__(
        self,
        group: Any,
        moves: Sequence[Move],
        wholes: Sequence[Tensor | None],
        device: torch.device,
        flags: bool,
    ) -> None:
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        sent = [i for i, m in enumerate(moves) if rank in m.record.senders]
        self._mine = [[i for i in sent if moves[i].owner == r] for r in range(size)]
        self._flags = flags = flags and not _stay(moves)
        self._device = device
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
        self._exchange = Exchange(group, sends, _pieces(self._receives), device, sends_any)
        self._said = said

    def run(self, locals_: Sequence[Tensor | None]) -> list[bool]:
        """Put together what this rank and the others have; says which tensors any of them has.

        What some lack is zero there. All ranks do it together.
        """
        present = [x is not None for x in locals_]
        zeros = {
            i: torch.zeros(self._shapes[i][0], dtype=self._shapes[i][1], device=self._device)
            for i, there in enumerate(present)
            if not there
        }
        said = torch.tensor(present if self._flags else [], dtype=torch.uint8, device=self._device)
        sends = [
            [said, *(zeros[i] if locals_[i] is None else locals_[i] for i in mine)]
            for mine in self._mine
        ]
        self._exchange.run(sends, self._receives)  # type: ignore[arg-type]
        if self._flags:
            return [bool(there) for there in torch.stack(self._said).amax(0).tolist()]
        return present


class GiveOut:
    """Gives every rank its boxes of tensors that owners have whole.

    Args:
        group: the ranks.
        moves: the tensors, in the same order on all ranks.
        wholes: those that this rank owns; None for others.
        device: where they are.
    """

    def __init__(
        self,
        group: Any,
        moves: Sequence[Move],
        wholes: Sequence[Tensor | None],
        device: torch.device,
    ) -> None:
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        self._mine = [
            [i for i, m in enumerate(moves) if m.owner == r and m.record.boxes[rank].numel]
            for r in range(size)
        ]
        self._sends = [_boxes_of(moves, wholes, r, everyone=True) for r in range(size)]
        receives = [
            [Piece(moves[i].record.boxes[rank].shape, moves[i].dtype) for i in mine]
            for mine in self._mine
        ]
        sends_any = not _stay(moves)
        self._exchange = Exchange(group, _pieces(self._sends), receives, device, sends_any)

    def run(self, locals_: Sequence[Tensor]) -> None:
        """Overwrite this rank's boxes; all ranks do it together."""
        receives = [[locals_[i] for i in mine] for mine in self._mine]
        self._exchange.run(self._sends, receives)


def _stay(moves: Sequence[Move]) -> bool:
    """Whether owners have everything already, and nobody else anything."""
    return all(move.record.holder == move.owner for move in moves)


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
