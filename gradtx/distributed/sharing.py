"""Whole tensors that ranks tell each other: what each has goes to all in one message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .packing import Piece

# Newer versions of torch have it under a new name, and deprecate this one.
_new: Callable[..., Any] | None = getattr(dist, "all_gather_single", None)
_all_gather = _new or dist.all_gather_into_tensor


class Share:
    """One all-gather between the ranks of a group; shorter messages are filled up.

    Args:
        group: the ranks.
        tensors: by the rank that gives them; the same on all ranks.
        device: where they are.
    """

    def __init__(
        self, group: Any, tensors: Sequence[Sequence[Tensor]], device: torch.device
    ) -> None:
        self._group, self._device = group, device
        self._own = dist.get_rank(group)
        self._tensors = [[x.detach() for x in some] for some in tensors]
        pieces = [[Piece(tuple(x.shape), x.dtype) for x in some] for some in tensors]
        self._size = max(sum(piece.nbytes for piece in some) for some in pieces)
        self._pieces = pieces

    def run(self) -> None:
        """Overwrite the tensors of other ranks; all ranks do it together."""
        ranks = len(self._tensors)
        # Made anew, so that the memory is free between steps.
        sent = torch.empty(self._size, dtype=torch.uint8, device=self._device)
        found = torch.empty(self._size * ranks, dtype=torch.uint8, device=self._device)
        _copy(self._views(sent, self._own), self._tensors[self._own])
        _all_gather(found, sent, group=self._group)
        for rank, message in enumerate(found.chunk(ranks) if self._size else ()):
            if rank != self._own:
                _copy(self._tensors[rank], self._views(message, rank))

    def _views(self, message: Tensor, rank: int) -> list[Tensor]:
        """The tensors of a rank in its message."""
        out, at = [], 0
        for piece, x in zip(self._pieces[rank], self._tensors[rank], strict=True):
            out.append(message[at : at + x.nbytes].view(piece.dtype).view(piece.shape))
            at += piece.nbytes
        return out


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(list(targets), list(sources))
