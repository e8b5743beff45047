"""States of sharded parameters: as DTensors for checkpoints, as plain tensors to compute with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..distributed.packing import GiveOut, Move
from ..distributed.records import Box, Record, box_of, is_distributed, is_sharded, local_part
from .leaves import Nested, map_tensors


def as_shards(p: Any, local: Tensor, nested: Nested, shown: Any) -> Nested:
    """The state of a parameter's local shard, over the same memory, as one of the parameter.

    Args:
        p: the parameter.
        local: its shard.
        nested: the shard's state.
        shown: what this gave before; DTensors whose memory is still the same are used again.
    """
    if not is_distributed(p):
        return nested
    out: Nested = {}
    for name, value in nested.items():
        before: Any = shown.get(name) if isinstance(shown, dict) else None
        if isinstance(value, dict):
            out[name] = as_shards(p, local, value, before)
        elif isinstance(value, Tensor) and value.ndim and value.shape == local.shape:
            same = is_distributed(before) and before._local_tensor is value
            out[name] = before if same else dtensor(p, value, tuple(p.shape))
        else:
            out[name] = value
    return out


def dtensor(p: Any, local: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A part of a tensor as a DTensor that lies as a parameter does."""
    from torch.distributed.tensor import DTensor

    like = torch.empty(shape, dtype=local.dtype, device="meta")
    stride = p.stride() if shape == p.shape else like.stride()
    return DTensor.from_local(
        local,
        p.device_mesh,
        p.placements,
        run_check=False,
        shape=torch.Size(shape),
        stride=stride,
    )


def full(x: Any) -> Tensor:
    """All of a DTensor; dtypes that no back end sends travel as wider ones."""
    wide = torch.float32 if x.is_floating_point() else torch.int32
    narrow = x.itemsize < 4 and x.dtype not in _SENT
    out: Tensor = (x.to(wide) if narrow else x).full_tensor()
    return out.to(x.dtype)


_SENT = (torch.bfloat16, torch.float16, torch.uint8, torch.int8, torch.bool)


def of_shards(who: str, name: str, p: Any, nested: Nested) -> Nested:
    """The state of a parameter's local shard; all ranks may have to do it together.

    Args:
        who: for errors.
        name: of the parameter.
        p: the parameter.
        nested: its state: DTensors, or plain tensors that are whole.
    """

    def part(x: Any) -> Tensor:
        if is_distributed(x):
            if x.shape == p.shape and is_distributed(p):
                if x.placements != p.placements or x.device_mesh != p.device_mesh:
                    x = x.redistribute(p.device_mesh, p.placements)
                return local_part(x)
            return full(x)
        if is_sharded(p) and x.ndim and x.shape == p.shape:
            return box_of(who, name, p).of(x).clone()
        return x

    return map_tensors(part, _in_order(nested))


def to_owner(nested: Nested, owned: bool) -> Nested:
    """A state of whole tensors where a leaf is owned, else nothing; all ranks do it together."""

    def whole(x: Any) -> Tensor:
        return full(x) if is_distributed(x) else x

    found = map_tensors(whole, _in_order(nested))
    return found if owned else {}


def _in_order(nested: Any) -> Any:
    """Nested dicts sorted by name: ranks may have filled theirs in another order."""
    if isinstance(nested, dict):
        return {name: _in_order(nested[name]) for name in sorted(nested)}
    return nested


class _Form(NamedTuple):
    """A tensor that another rank has."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def from_owners(
    group: Any,
    held: Mapping[Any, Nested],
    records: Mapping[Any, Record],
    owners: Mapping[Any, int],
) -> dict[Any, Nested]:
    """What owners keep of leaves, on all ranks, who do it together.

    What has the shape of its leaf lies as the leaf does; all else is on every rank.

    Args:
        group: the ranks.
        held: by parameter, what this rank has.
        records: of the parameters.
        owners: of the parameters.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    every: list[Any] = [None] * size
    forms = {records[p].name: _forms(nested) for p, nested in held.items() if owners[p] == rank}
    dist.all_gather_object(every, forms, group=group)
    out: dict[Any, Nested] = {}
    for p, record in records.items():  # one after another: no more memory than one takes
        form = every[owners[p]].get(record.name) or {}
        out[p] = _given_out(group, p, record, owners[p], form, list(_tensors(held.get(p, {}))))
    return out


def _given_out(
    group: Any, p: Any, record: Record, owner: int, form: Any, here: list[Tensor]
) -> Nested:
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    wanted = list(_tensors(form))
    alike = [bool(w.shape) and w.shape == record.shape and is_sharded(p) for w in wanted]
    moves = []
    for w, like in zip(wanted, alike, strict=True):
        whole = Box((0,) * len(w.shape), w.shape)
        boxes = record.boxes if like else (whole,) * size
        moves.append(Move(Record(record.name, w.shape, w.dtype, boxes), owner, w.dtype))
    device = local_part(p).device
    mine = rank == owner
    parts = [torch.empty(m.record.boxes[rank].shape, dtype=m.dtype, device=device) for m in moves]
    wholes = [x.detach().to(device) if mine else None for x in (here if mine else wanted)]
    if moves:
        GiveOut(group, moves, wholes, device).run(parts)
    done = iter(
        dtensor(p, x, tuple(p.shape)) if like else x for x, like in zip(parts, alike, strict=True)
    )
    return _replaced(form, done)


def _forms(nested: Any) -> Any:
    if isinstance(nested, dict):
        return {name: _forms(value) for name, value in nested.items()}
    return _Form(tuple(nested.shape), nested.dtype) if isinstance(nested, Tensor) else nested


def _tensors(nested: Any) -> Iterator[Any]:
    for value in nested.values():
        if isinstance(value, dict):
            yield from _tensors(value)
        elif isinstance(value, (Tensor, _Form)):
            yield value


def _replaced(nested: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(nested, dict):
        return {name: _replaced(value, tensors) for name, value in nested.items()}
    return next(tensors) if isinstance(nested, _Form) else nested
