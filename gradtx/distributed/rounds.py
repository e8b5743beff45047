"""Collectives for many leaves at once.

The exchange of one leaf is a generator: it yields what it wants to have exchanged and is sent the
result. ``together`` advances all leaves at once and ``drive`` puts their requests into one
collective of each kind, so that the number of messages does not grow with the number of leaves.
Generators hold no collectives: one process answers those of several simulated workers as well.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core import tree
from ..core.tree import PyTree


@dataclass(frozen=True)
class Mean:
    """Ask for the mean of a tensor over all processes."""

    value: Tensor


@dataclass(frozen=True)
class Gather:
    """Ask for the tensors of every process, in the order of their ranks."""

    value: tuple[Tensor, ...]


# Yields requests, is sent answers, returns the leaf's result.
Exchange = Generator[Mean | Gather, Any, Any]
# The same with a list of requests and a list of answers at a time.
Rounds = Generator[list[Any], Any, Any]


class Reducer(Protocol):
    """What answers requests: one collective over all workers.

    Called with a list. For op "mean" it holds tensors, and the answer their means over workers; for
    op "gather" tuples of tensors, and the answer has for each those of all workers, by rank.
    """

    def __call__(self, values: list[Any], op: str = "mean") -> list[Any]: ...


def one_worker(values: list[Any], op: str = "mean") -> list[Any]:
    """A reducer for a worker that is alone."""
    return list(values) if op == "mean" else [[value] for value in values]


class Wire:
    """The collectives of one process group.

    Attributes:
        sent_bytes: what this process has given to collectives so far.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group
        self.sent_bytes = 0

    def __call__(self, values: list[Any], op: str = "mean") -> list[Any]:
        """The answers to requests of one kind, see ``Reducer``."""
        return self.means(values) if op == "mean" else self.gathered(values)

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

    def from_first(self, what: PyTree) -> PyTree:
        """A tree with the tensors of the group's first process; all give one of the same shapes."""
        leaves, spec = tree.flatten(what)
        there = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.numel()]
        device = next((leaves[i].device for i in there), torch.device("cpu"))
        packed = [
            leaves[i].detach().contiguous().reshape(-1).view(torch.uint8).to(device) for i in there
        ]
        flat = torch.cat(packed)
        torch.distributed.broadcast(flat, group=self.group, group_src=0)
        for i, piece in zip(there, flat.split([x.numel() for x in packed]), strict=True):
            x = leaves[i]
            leaves[i] = piece.clone().view(x.dtype).reshape(x.shape).to(x.device)
        return spec.unflatten(leaves)

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


def together(exchanges: Iterable[Exchange]) -> Rounds:
    """Advance several exchanges at once: what they ask for in a round is one list of requests.

    Returns:
        A generator whose result is the list of theirs.
    """
    results: dict[int, Any] = {}
    running = dict(enumerate(exchanges))
    answers: dict[int, Any] = dict.fromkeys(running)
    while running:
        requests: dict[int, Mean | Gather] = {}
        for i, exchange in list(running.items()):
            try:
                requests[i] = exchange.send(answers[i])
            except StopIteration as end:
                results[i] = end.value
                del running[i]
        if requests:
            answers = dict(zip(requests, (yield list(requests.values())), strict=True))
    return [results[i] for i in sorted(results)]


def drive(rounds: Rounds, reduce: Reducer) -> Any:
    """Answer all requests by a reducer, one call of each kind a round, and return the result.

    Raises:
        ValueError: the reducer has changed a shape.
    """
    answers = None
    while True:
        try:
            requests = rounds.send(answers)
        except StopIteration as end:
            return end.value
        answers = [None] * len(requests)
        for kind, op in ((Mean, "mean"), (Gather, "gather")):
            which = [i for i, r in enumerate(requests) if isinstance(r, kind)]
            if which:
                values = [requests[i].value for i in which]
                for i, value, answer in zip(which, values, reduce(values, op), strict=True):
                    if op == "mean" and tuple(answer.shape) != tuple(value.shape):
                        raise ValueError(
                            f"reduce: the mean of tensors of shape {tuple(value.shape)} has shape "
                            f"{tuple(answer.shape)}; workers must hold the same leaves"
                        )
                    answers[i] = answer


def run(exchanges: Iterable[Exchange], wire: Wire) -> list[Any]:
    """Advance all exchanges to their ends and return their results."""
    results: list[Any] = drive(together(exchanges), wire)
    return results
