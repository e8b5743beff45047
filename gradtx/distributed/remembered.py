"""What the processes of a communication hook remember, when they are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec
from ..core import tree
from .rounds import Wire


def world_of(group: Any) -> tuple[int, int]:
    """Rank and number of processes; of a program without a process group, 0 and 1."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(group), torch.distributed.get_world_size(group)


def entry(rank: int, world: int) -> str:
    """What the entry of a process is called, so that no other one loads it."""
    return f"rank_{rank}_of_{world}"


def share_of(
    rank: int, world: int, saved: int, errors: Mapping[str, Any], compressors: Mapping[str, Any]
) -> dict[str, Any]:
    """Room for what a process reads of a checkpoint of ``saved`` processes.

    Residuals are shared out; compressors, which are everywhere the same, all read from the first.
    """
    room: dict[str, Any] = {entry(0, saved): {"compressors": _copy(compressors)}}
    for i in range(rank, saved, world):
        room.setdefault(entry(i, saved), {})["errors"] = _copy(errors)
    return room


def _copy(nested: Any) -> Any:
    if isinstance(nested, Mapping):
        return {name: _copy(value) for name, value in nested.items()}
    return nested.clone() if isinstance(nested, Tensor) else nested


class Remembered(NamedTuple):
    """A state that has been loaded, until parameters are met.

    Attributes:
        errors: residuals of this process, by parameter name.
        compressors: states of compressors.
        everyones: residuals that other processes saved and this one has read; None if each goes on
            with its own.
        saved: how many processes saved them.
    """

    errors: dict[str, Any]
    compressors: dict[str, Any]
    everyones: tuple[Mapping[str, Any], ...] | None = None
    saved: int = 1

    @classmethod
    def read(cls, state: Mapping[str, Any], residuals: str | None, wire: Wire) -> Remembered:
        """A state dict; see ``CommHook.load_state_dict``."""
        if residuals not in (None, "sum", "drop"):
            raise ValueError(
                f"comm_hook: residuals must be None, 'sum' or 'drop', got {residuals!r}"
            )
        rank, world = world_of(wire.group)
        own = state if "errors" in state else state.get(entry(rank, world))
        if own is not None:
            errors, compressors = own.get("errors", {}), own.get("compressors", {})
            return cls(tree.to_dict(errors), tree.to_dict(compressors))
        found = {m: state[m[0]] for m in map(_ENTRY.fullmatch, state) if m}
        entries = {int(m["rank"]): held for m, held in found.items()}
        worlds = {int(m["world"]) for m in found} | {state.get("world_size", world)} - {world}
        if residuals is None or len(worlds) > 1:
            raise ValueError(
                f"comm_hook: the state is that of {sorted(set(state) - {'world_size'})}, this "
                f"process is {entry(rank, world)}; what a process remembers is of no use to "
                "another one. residuals='sum' shares out what all remember, residuals='drop' "
                "begins without; read a distributed checkpoint into state_dict(world_size=...) of "
                "as many processes as saved it"
            )
        held = (e["compressors"] for e in entries.values() if e.get("compressors"))
        compressors = tree.to_dict(next(held, {}))
        if residuals == "drop":
            return cls({}, compressors)
        (saved,) = worlds or {1}
        shares = {i: e["errors"] for i, e in entries.items() if "errors" in e}
        _check_all_there(shares, saved, wire.group)
        return cls({}, compressors, tuple(shares.values()), saved)

    def take(self, name: str, error: Any, compressor: Any) -> tuple[Any, Any]:
        """The residual and the compressor's state of a leaf; what was not loaded is new.

        Args:
            name: of the leaf.
            error: a new residual.
            compressor: a new state.
        """
        new = {"errors": {name: error}, "compressors": {name: compressor}}
        held = {"errors": self.errors, "compressors": self.compressors}
        loaded = {kind: {name: kept.pop(name)} for kind, kept in held.items() if name in kept}
        filled = {**new, **tree.from_dict({kind: new[kind] for kind in loaded}, loaded)}
        return filled["errors"][name], filled["compressors"][name]

    def mean(self, name: str, codec: Codec, error: Any, like: Tensor, wire: Wire) -> Tensor:
        """What all processes that saved remember of a leaf on average: exchanged once a leaf."""
        total = torch.zeros_like(like)
        for share in self.everyones or ():
            if name in share:
                filled = tree.from_dict({name: error}, {name: share[name]})
                total += codec.decode(filled[name], like)
        if world_of(wire.group)[1] > 1:
            torch.distributed.all_reduce(total, group=wire.group)
        return total / self.saved


_ENTRY = re.compile(r"rank_(?P<rank>\d+)_of_(?P<world>\d+)")


def _check_all_there(ranks: Iterable[int], saved: int, group: Any) -> None:
    """Raise, in all processes, unless each saved residual is read by exactly one of them."""
    everyone: list[Any] = [sorted(ranks)]
    world = world_of(group)[1]
    if world > 1:
        everyone *= world
        torch.distributed.all_gather_object(everyone, sorted(ranks), group=group)
    held = [i for some in everyone for i in some]
    wrong = [entry(i, saved) for i in range(saved) if held.count(i) != 1]
    if wrong:
        raise ValueError(
            "comm_hook: residuals='sum' needs what each process remembers once, but "
            f"{', '.join(wrong)} are missing or read by several; use state_dict(world_size=...)"
        )
