"""States of sharded parameters: as DTensors for checkpoints, as plain tensors to compute with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..distributed.packing import GiveOut, Move, Slot
from ..distributed.records import Box, Record, box_of, is_distributed, is_sharded, local_part
from .leaves import Nested, at_path, flattened, map_paths, map_tensors


def gradient_part(who: str, name: str, p: Any) -> Tensor | None:
    """This rank's part of a gradient, which lies as its parameter does.

    Args:
        who: for errors.
        name: of the parameter.
        p: the parameter.

    Raises:
        ValueError: it lies on another mesh, or on none.
    """
    grad: Any = p.grad
    if grad is None or not is_distributed(p):
        return grad
    if not is_distributed(grad) or grad.device_mesh != p.device_mesh:
        where = f"on {grad.device_mesh}" if is_distributed(grad) else "no DTensor"
        raise ValueError(
            f"{who}: the gradient of leaf {name!r} is {where}, its parameter on {p.device_mesh}; "
            "distribute it over the same mesh"
        )
    if grad.placements != p.placements:
        grad = grad.redistribute(p.device_mesh, p.placements)
    local = grad._local_tensor
    return local if type(local) is Tensor else grad.to_local()


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


@dataclass(frozen=True)
class CutStates:
    """How the state of a leaf lies of which this rank has a part.

    Attributes:
        p: the parameter.
        cut: by path, the shapes of tensors of which ranks have parts as they have of the leaf.
    """

    p: Any
    cut: Mapping[tuple[str, ...], tuple[int, ...]]

    def shown(self, nested: Nested, before: Any) -> Nested:
        """What this rank has of a state, as one of the parameter.

        Args:
            nested: the state.
            before: what this gave before; DTensors whose memory is still the same are used again.
        """

        def whole(path: tuple[str, ...], x: Tensor) -> Tensor:
            if path not in self.cut:
                return x
            old = at_path(before, path)
            same = is_distributed(old) and local_part(old) is x
            return old if same else dtensor(self.p, x, self.cut[path])

        out: Nested = map_paths(whole, nested)
        return out


def full(x: Any) -> Tensor:
    """All of a DTensor; dtypes that no back end sends travel as wider ones."""
    wide = torch.float32 if x.is_floating_point() else torch.int32
    narrow = x.itemsize < 4 and x.dtype not in _SENT
    out: Tensor = (x.to(wide) if narrow else x).full_tensor()
    return out.to(x.dtype)


# What no back end gathers, which torch asks for where a state dict is to be full.
_LOCAL = (torch.int16, torch.uint16)
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
    """A tensor that a rank has."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    rank: int


def from_holders(
    group: Any, held: Mapping[Any, Nested], records: Mapping[Any, Record]
) -> dict[Any, Nested]:
    """What ranks keep of leaves, on all ranks, who do it together.

    What has the shape of its leaf lies as the leaf does; all else is on every rank, and so are
    integers of 16 bits.

    Args:
        group: the ranks.
        held: by parameter, what this rank has; of what several have the first one counts.
        records: of the parameters.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    every: list[Any] = [None] * size
    forms = {records[p].name: _forms(nested, rank) for p, nested in held.items()}
    dist.all_gather_object(every, forms, group=group)
    out: dict[Any, Nested] = {}
    for p, record in records.items():  # one after another: no more memory than one takes
        form: Any = {}
        for there in every:
            form = _also(form, there.get(record.name, {}))
        out[p] = _given_out(group, p, record, form, held.get(p, {}))
    return out


def _given_out(group: Any, p: Any, record: Record, form: Any, here: Nested) -> Nested:
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    wanted = dict(flattened(form))
    tensors = {path: w for path, w in wanted.items() if isinstance(w, _Form)}
    cut = is_sharded(p) and bool(record.shape)
    alike = [cut and w.shape == record.shape and w.dtype not in _LOCAL for w in tensors.values()]
    moves, wholes = [], []
    device = local_part(p).device
    for (path, w), like in zip(tensors.items(), alike, strict=True):
        whole = Box((0,) * len(w.shape), w.shape)
        boxes = record.boxes if like else (whole,) * size
        moves.append(Move(Record(record.name, w.shape, w.dtype, boxes), w.rank, w.dtype))
        wholes.append(at_path(here, path).detach().to(device) if w.rank == rank else None)
    parts = [torch.empty(m.record.boxes[rank].shape, dtype=m.dtype, device=device) for m in moves]
    if moves:
        give_out = GiveOut(group, moves, wholes, Slot(device))
        give_out.start(parts)
        give_out.finish()
    done = iter(
        dtensor(p, x, tuple(p.shape)) if like else x for x, like in zip(parts, alike, strict=True)
    )
    return _replaced(form, done)


def _forms(nested: Any, rank: int) -> Any:
    if isinstance(nested, dict):
        return {name: _forms(value, rank) for name, value in nested.items()}
    if isinstance(nested, Tensor):
        return _Form(tuple(nested.shape), nested.dtype, rank)
    return nested


def _also(form: Any, more: Any) -> Any:
    """Nested dicts, and what others have where there is nothing yet."""
    if not (isinstance(form, dict) and isinstance(more, dict)):
        return form
    inside = {name: _also(x, more.get(name)) for name, x in form.items()}
    return inside | {name: x for name, x in more.items() if name not in form}


def _replaced(nested: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(nested, dict):
        return {name: _replaced(value, tensors) for name, value in nested.items()}
    return next(tensors) if isinstance(nested, _Form) else nested
