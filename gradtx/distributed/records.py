"""Which part of every leaf each rank holds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Box(NamedTuple):
    """Elements of a tensor that lie together: where they begin, and how many in each dimension.

    >>> import torch
    >>> from gradtx.distributed.records import Box
    >>> Box((1, 0), (1, 2)).of(torch.arange(6).view(3, 2))
    tensor([[2, 3]])
    """

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def of(self, whole: Tensor) -> Tensor:
        """A view of these elements of a tensor."""
        for dim, (start, size) in enumerate(zip(self.offset, self.shape, strict=True)):
            if size != whole.shape[dim]:
                whole = whole.narrow(dim, start if size else 0, size)
        return whole


class Record(NamedTuple):
    """A leaf, and the box of it that every rank of a group holds.

    Attributes:
        name: qualified name, the same on all ranks.
        shape: of the whole leaf.
        dtype: its own.
        boxes: by rank.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    boxes: tuple[Box, ...]

    @property
    def senders(self) -> tuple[int, ...]:
        """The ranks that have all of it between them: of those with equal boxes the first."""
        first: dict[Box, int] = {}
        for rank, box in enumerate(self.boxes):
            if box.numel:
                first.setdefault(box, rank)
        return tuple(first.values())

    @property
    def holder(self) -> int | None:
        """The rank that has all of it while the others have nothing, if there is one."""
        there = [rank for rank, box in enumerate(self.boxes) if box.numel]
        return there[0] if len(there) == 1 else None

    @property
    def is_covered(self) -> bool:
        """Whether the senders' boxes have as many elements as the leaf."""
        return sum(self.boxes[rank].numel for rank in self.senders) == math.prod(self.shape)


def is_distributed(x: Any) -> bool:
    """Whether a tensor is a DTensor."""
    return hasattr(x, "_local_tensor") and hasattr(x, "device_mesh")


def is_sharded(x: Any) -> bool:
    """Whether this rank may have less than all of a tensor.

    >>> import torch
    >>> from gradtx.distributed.records import is_sharded
    >>> is_sharded(torch.ones(2))
    False
    """
    return is_distributed(x) and not all(place.is_replicate() for place in x.placements)


def local_part(x: Tensor) -> Tensor:
    """The memory that this rank has of a tensor."""
    return x._local_tensor if is_distributed(x) else x  # type: ignore[attr-defined]


def check_placements(who: str, name: str, x: Any) -> None:
    """Raise where ranks have summands of a tensor instead of elements.

    Raises:
        ValueError: they do.
    """
    if any(place.is_partial() for place in x.placements):
        raise ValueError(
            f"{who}: leaf {name!r} has placements {x.placements}: its parts must be summed before "
            "it can be updated; redistribute the parameter to Shard or Replicate"
        )


def box_of(who: str, name: str, x: Any) -> Box:
    """The box of a tensor that this rank holds.

    Raises:
        ValueError: what it holds is no box, or only adds up to the tensor.
    """
    if not is_sharded(x):
        return Box((0,) * x.ndim, tuple(x.shape))
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    check_placements(who, name, x)
    shape, offset = compute_local_shape_and_global_offset(x.shape, x.device_mesh, x.placements)
    if tuple(shape) != tuple(x._local_tensor.shape):
        raise ValueError(
            f"{who}: leaf {name!r} has placements {x.placements}, of which this rank should hold "
            f"{tuple(shape)}, but it has {tuple(x._local_tensor.shape)}; shard it with "
            "fully_shard or distribute_tensor"
        )
    return Box(tuple(offset), tuple(shape))


def group_of(who: str, leaves: Mapping[str, Any]) -> Any:
    """The processes among which leaves lie: those of the largest mesh, which has all the others.

    Args:
        who: for errors.
        leaves: by name; DTensors among them count.

    Raises:
        ValueError: there are two meshes of which none has all ranks of the other.
    """
    meshes = {x.device_mesh: name for name, x in leaves.items() if is_distributed(x)}
    ranks = {mesh: frozenset(mesh.mesh.flatten().tolist()) for mesh in meshes}
    largest = max(ranks, key=lambda mesh: (len(ranks[mesh]), mesh.ndim == 1))
    for mesh, name in meshes.items():
        if not ranks[mesh] <= ranks[largest]:
            raise ValueError(
                f"{who}: leaves {meshes[largest]!r} and {name!r} lie on the meshes {largest} and "
                f"{mesh}, neither of which has all ranks of the other; use an optimizer for each "
                "(gradients can be clipped together by torch.nn.utils.clip_grad_norm_)"
            )
    if len(ranks[largest]) == dist.get_world_size():
        return dist.group.WORLD
    if largest.ndim == 1:
        return largest.get_group()
    return _subgroup(tuple(sorted(ranks[largest])))


_subgroups: dict[tuple[Any, ...], Any] = {}


def _subgroup(ranks: tuple[int, ...]) -> Any:
    key = (dist.group.WORLD, ranks)
    if key not in _subgroups:
        _subgroups[key] = dist.new_group(list(ranks), use_local_synchronization=True)
    return _subgroups[key]


def records_of(who: str, group: Any, leaves: Mapping[str, Any], plan: Any = None) -> list[Record]:
    """Every rank's boxes of leaves, which all ranks of a group ask for together.

    Args:
        who: for errors.
        group: the ranks.
        leaves: this rank's leaves by name.
        plan: what must be the same on all ranks besides.

    Raises:
        ValueError: on all ranks, where leaves differ between them, or lie in a way that cannot be
            put together.
    """
    error: Exception | None = None
    boxes: dict[str, Box] = {}
    try:
        boxes = {name: box_of(who, name, x) for name, x in leaves.items()}
    except ValueError as found:
        error = found
    own = {name: (tuple(x.shape), x.dtype) for name, x in leaves.items()}
    every: list[Any] = [None] * dist.get_world_size(group)
    said = re.sub(r" at 0x[0-9a-f]+", "", repr(plan))  # functions lie elsewhere on every rank
    dist.all_gather_object(every, (own, boxes, said, str(error or "")), group=group)
    if error is not None:
        raise error
    _check_agree(who, every)
    records = [
        Record(name, shape, dtype, tuple(there[1][name] for there in every))
        for name, (shape, dtype) in own.items()
    ]
    for record in records:
        if not record.is_covered:
            raise ValueError(
                f"{who}: leaf {record.name!r} of shape {record.shape} has placements "
                f"{leaves[record.name].placements}, whose parts overlap or leave elements out; "
                "redistribute it to Shard or Replicate"
            )
    return records


def _check_agree(who: str, every: Sequence[tuple[Any, Any, str, str]]) -> None:
    """Raise where one rank found an error, or ranks have other leaves or other plans."""
    first = every[0]
    for rank, (own, _, plan, error) in enumerate(every):
        if error:
            raise ValueError(f"{who}: on rank {rank}: {error}")
        if own != first[0] or list(own) != list(first[0]):
            names = _differing(own, first[0])
            raise ValueError(
                f"{who}: ranks 0 and {rank} have other leaves, or in another order: {names}; "
                "build the optimizer from the same named parameters on all ranks"
            )
        if plan != first[2]:
            raise ValueError(
                f"{who}: ranks 0 and {rank} would compute another chain: {first[2]} and {plan}; "
                "give all ranks the same options"
            )


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterable[str]:
    every = [*a, *(name for name in b if name not in a)]
    return [name for name in every if a.get(name) != b.get(name)][:5] or every[:5]
