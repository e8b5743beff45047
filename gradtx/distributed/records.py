"""Which part of every leaf each rank holds."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
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


def _check_together(who: str, name: str, x: Any) -> None:
    """Raise where the rows that a rank has of a tensor do not lie together.

    Of an axis that is said to have cut a dimension after others, those must be there.

    Raises:
        ValueError: they are not.
    """
    sizes = x.device_mesh.mesh.shape
    for axis, place in enumerate(x.placements):
        later = [
            size
            for size, other in zip(sizes[axis + 1 :], x.placements[axis + 1 :], strict=True)
            if getattr(other, "dim", None) == getattr(place, "dim", -1)
        ]
        if getattr(place, "split_factor", 1) not in (1, math.prod(later)):
            raise ValueError(
                f"{who}: leaf {name!r} has placements {x.placements}, of which a rank has rows "
                "that do not lie together; redistribute it to Shard or Replicate"
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
    _check_together(who, name, x)
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
    ranks = {mesh: ranks_of(mesh) for mesh in meshes}
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


def ranks_of(mesh: Any) -> frozenset[int]:
    """The processes of a mesh."""
    return frozenset(mesh.mesh.flatten().tolist())


Plans = Mapping[str, Mapping[str, str]]


def records_of(
    who: str,
    group: Any,
    leaves: Mapping[str, Any],
    plans: Plans,
    error: Exception | None = None,
) -> list[Record]:
    """Every rank's boxes of leaves, which all ranks of a group ask for together.

    Args:
        who: for errors.
        group: the ranks.
        leaves: this rank's leaves by name.
        plans: by leaf, perhaps of more of them, what must be the same on all ranks.
        error: what this rank has found wrong before.

    Raises:
        ValueError: on all ranks, where leaves or plans differ between them, leaves lie in a way
            that cannot be put together, or one of them has found something wrong.
    """
    boxes: dict[str, Box] = {}
    if error is None:
        try:
            boxes = {name: box_of(who, name, x) for name, x in leaves.items()}
        except ValueError as found:
            error = found
    every: list[Any] = [None] * dist.get_world_size(group)
    # Functions lie elsewhere on every rank.
    said = {n: {k: _ADDRESS.sub("", x) for k, x in plan.items()} for n, plan in plans.items()}
    dist.all_gather_object(every, (boxes, said, str(error or "")), group=group)
    if error is not None:
        raise error
    _check_agree(who, [(plan, wrong) for _, plan, wrong in every])
    records = [
        Record(name, tuple(x.shape), x.dtype, tuple(there[name] for there, _, _ in every))
        for name, x in leaves.items()
    ]
    for record in records:
        if not record.is_covered:
            raise ValueError(
                f"{who}: leaf {record.name!r} of shape {record.shape} has placements "
                f"{leaves[record.name].placements}, whose parts overlap or leave elements out; "
                "redistribute it to Shard or Replicate"
            )
    return records


_ADDRESS = re.compile(" at 0x[0-9a-f]+")


def _check_agree(who: str, every: Sequence[tuple[Plans, str]]) -> None:
    """Raise where one rank found an error, or ranks have other leaves or other plans."""
    first = every[0][0]
    for rank, (plans, error) in enumerate(every):
        if error:
            raise ValueError(f"{who}: on rank {rank}: {error.removeprefix(f'{who}: ')}")
        if list(plans) != list(first):
            raise ValueError(
                f"{who}: ranks 0 and {rank} have other leaves, or in another order: "
                f"{_differing(plans, first)}; build the optimizer from the same named parameters "
                "on all ranks"
            )
        for name, plan in plans.items():
            for what in {**first[name], **plan}:
                a, b = (x.get(what, "nothing") for x in (first[name], plan))
                if a != b:
                    a, b = _excerpts(a, b)
                    raise ValueError(
                        f"{who}: ranks 0 and {rank} differ about leaf {name!r}, {what}: {a} and "
                        f"{b}; give all ranks the same model and the same options"
                    )


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Some names that only one has, or that stand elsewhere."""
    alone = [*(name for name in a if name not in b), *(name for name in b if name not in a)]
    moved = [name for name, other in zip(a, b, strict=False) if name != other]
    return (alone or moved)[:5]


def _excerpts(a: str, b: str, most: int = 120) -> tuple[str, str]:
    """Two texts, of long ones what they have from a little before their first difference."""
    if max(len(a), len(b)) <= most:
        return a, b
    both = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    begin = max(sum(1 for _ in both) - 40, 0)
    some = [x[begin : begin + most] + "..." * (len(x) > begin + most) for x in (a, b)]
    before = "..." if begin else ""
    return before + some[0], before + some[1]
