"""Collectives for many leaves at once.

The exchange of one leaf is a generator: it yields what it wants to have exchanged and is sent the
result. ``run`` advances all leaves of a bucket together and puts their requests into one collective
of each kind, so that the number of messages does not grow with the number of leaves.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """Ask for the mean of a tensor over all processes."""

    value: Tensor


@dataclass(frozen=True)
class Gather:
    """Ask for the tensors of every process, in the order of their ranks."""

    values: tuple[Tensor, ...]


# Yields requests, is sent answers, returns the leaf's result.
Exchange = Generator[Mean | Gather, Any, Any]


class Wire:
    """The collectives of one process group.

    Attributes:
        sent_bytes: what this process has given to collectives so far.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group
        self.sent_bytes = 0

    def means(self, values: list[Tensor]) -> list[Tensor]:
        """The means over all processes, one collective per dtype."""
        out: dict[int, Tensor] = {}
        for dtype in dict.fromkeys(v.dtype for v in values):
            which = [i for i, v in enumerate(values) if v.dtype == dtype]
            flat = torch.cat([values[i].reshape(-1) for i in which])
            self.sent_bytes += flat.nbytes
            # Before the sum, which may be too large for float16 where the mean is not.
            flat /= torch.distributed.get_world_size(self.group)
            torch.distributed.all_reduce(flat, group=self.group)
            parts = flat.split([values[i].numel() for i in which])
            out |= {i: part.view_as(values[i]) for i, part in zip(which, parts, strict=True)}
        return [out[i] for i in range(len(values))]

    def gathered(self, messages: list[tuple[Tensor, ...]]) -> list[list[tuple[Tensor, ...]]]:
        """For every message, what every process sent, in one collective on bytes."""
        tensors = [t for message in messages for t in message]
        packed = torch.cat([t.contiguous().reshape(-1).view(torch.uint8) for t in tensors])
        self.sent_bytes += packed.nbytes
        world = torch.distributed.get_world_size(self.group)
        received = [torch.empty_like(packed) for _ in range(world)]
        torch.distributed.all_gather(received, packed, group=self.group)
        by_rank = []
        for row in received:
            pieces = row.split([t.nbytes for t in tensors])
            # a copy, because a view in another dtype needs its alignment
            by_rank.append(
                [
                    piece.clone().view(t.dtype).view(t.shape)
                    for piece, t in zip(pieces, tensors, strict=True)
                ]
            )
        out, start = [], 0
        for message in messages:
            end = start + len(message)
            out.append([tuple(parts[start:end]) for parts in by_rank])
            start = end
        return out


def run(exchanges: Iterable[Exchange], wire: Wire) -> list[Any]:
    """Advance all exchanges to their ends and return their results."""
    results: dict[int, Any] = {}
    requests: dict[int, Mean | Gather] = {}
    running = dict(enumerate(exchanges))
    answers: dict[int, Any] = dict.fromkeys(running)
    while running:
        for i, exchange in list(running.items()):
            try:
                requests[i] = exchange.send(answers[i])
            except StopIteration as end:
                results[i] = end.value
                del running[i]
        means = {i: r.value for i, r in requests.items() if isinstance(r, Mean)}
        gathers = {i: r.values for i, r in requests.items() if isinstance(r, Gather)}
        requests = {}
        answers = {}
        if means:
            answers |= zip(means, wire.means(list(means.values())), strict=True)
        if gathers:
            answers |= zip(gathers, wire.gathered(list(gathers.values())), strict=True)
    return [results[i] for i in sorted(results)]
