"""Workers that are several ranks each, of which every one has a shard of every leaf."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.pointwise import elementwise_in
from .local_steps import LocalSteps
from .records import check_placements, is_distributed, is_sharded, local_part
from .rounds import one_worker

_WHO = "Worker"


def check_local(method: LocalSteps, leaves: Mapping[str, Any], group: Any) -> None:
    """Raise where shards of leaves must not be trained as if they were leaves.

    Args:
        method: what workers do.
        leaves: by name; DTensors among them count.
        group: the workers.

    Raises:
        TypeError: elements of different shards would meet, or workers have different shards (names
            the leaf).
    """
    for name, p in leaves.items():
        if not is_distributed(p):
            continue
        check_placements(_WHO, name, p)
        if not is_sharded(p):
            continue
        _check_same_shards(name, p, group)
        shape, part = tuple(p.shape), tuple(local_part(p).shape)
        why = elementwise_in(lambda leaf: _meeting(method, leaf), name, shape, part, p.dtype)
        if why is not None:
            raise TypeError(
                f"{_WHO}: leaf {name!r} is a DTensor with placements {p.placements}, and elements "
                f"of different shards would meet in {why}. Leave that part out of the method "
                "(torch.nn.utils.clip_grad_norm_ clips before step()), or give every worker whole "
                "parameters, in DistributedDataParallel or alone"
            )


def _meeting(method: LocalSteps, leaf: Mapping[str, Tensor]) -> None:
    """Two steps and a meeting at which everything is due."""
    state = method.init(leaf)
    state = method.begin(leaf, leaf, state, one_worker)
    for _ in range(2):
        _, state = method.update(leaf, state, leaf)
    due = state._replace(step=torch.zeros((), dtype=torch.int64, device="cpu"))
    method.sync(leaf, due, one_worker)


def _check_same_shards(name: str, p: Any, group: Any) -> None:
    """Raise where ranks that hold different shards of a leaf are different workers."""
    workers = set(torch.distributed.get_process_group_ranks(group))
    others = sorted(workers.intersection(_sharers(p)) - {torch.distributed.get_rank()})
    if others:
        raise TypeError(
            f"{_WHO}: leaf {name!r} is sharded over ranks {_sharers(p)}, of which {others} would "
            "be other workers; workers must have the same shard, so give as group the ranks that "
            "do: mesh.get_group() of the axis that replicas are on"
        )


def _sharers(p: Any) -> list[int]:
    """The ranks that have the shards of a tensor between them."""
    ranks: set[int] = set()
    for axis, place in enumerate(p.placements):
        if not place.is_replicate():
            ranks.update(torch.distributed.get_process_group_ranks(p.device_mesh.get_group(axis)))
    return sorted(ranks)


def shard_name(leaves: Mapping[str, Any]) -> str | None:
    """What tells this rank's shards from those of the same worker; None if it has all."""
    ranks = sorted({rank for p in leaves.values() if is_sharded(p) for rank in _sharers(p)})
    return f"shard_{ranks.index(torch.distributed.get_rank())}_of_{len(ranks)}" if ranks else None


def local_gradient(name: str, p: Any) -> Tensor | None:
    """This rank's part of a gradient, which lies as its parameter does.

    Raises:
        TypeError: it is no DTensor on the mesh of its parameter.
    """
    grad = p.grad
    if grad is None or not is_distributed(p):
        return grad
    if not is_distributed(grad) or grad.device_mesh != p.device_mesh:
        raise TypeError(
            f"{_WHO}: the gradient of leaf {name!r} is no DTensor on {p.device_mesh}, where its "
            "parameter is; distribute it over the same mesh"
        )
    if grad.placements != p.placements:
        grad = grad.redistribute(p.device_mesh, p.placements)
    return local_part(grad)
