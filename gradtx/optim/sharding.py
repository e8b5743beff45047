"""Chains on parameters of which this process has a part: refused where the part will not do."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..core.execution import holds
from ..core.pointwise import meeting
from ..core.protocol import GradientTransformation, members
from .counting import count_missed
from .leaves import names_of
from .migration import Bucket
from .wrappers import zero_redundancy_of

_meeting = functools.lru_cache(maxsize=64)(meeting)
# The ZeroRedundancyOptimizer around an optimizer, which is there before its first use.
_around: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def _zero_around(optimizer: Any) -> Any:
    if optimizer not in _around:
        found = zero_redundancy_of(optimizer)
        _around[optimizer] = None if found is None else weakref.ref(found)
    reference = _around[optimizer]
    return None if reference is None else reference()


def names_everywhere(optimizer: Any) -> dict[Tensor, str]:
    """A name for every parameter of an optimizer that is the same in all processes.

    Seeds come from names; without names of their own, parameters are called by their position, in
    a ``ZeroRedundancyOptimizer`` that among all parameters.
    """
    zero = _zero_around(optimizer)
    if zero is None:
        return names_of(optimizer.param_groups)
    names = names_of(zero.param_groups)
    own = dict.fromkeys(p for group in optimizer.param_groups for p in group["params"])
    return {p: names[p] for p in own}


def check_sharding(optimizer: Any, chains: Sequence[Bucket], names: Mapping[Tensor, str]) -> None:
    """Raise where chains need more of the parameters than an optimizer has.

    Raises:
        ValueError: names the member that needs it, and the leaf.
    """
    who = type(optimizer).__name__
    if _zero_around(optimizer) is not None:
        for tx, _ in chains:
            _check_zero(who, tx)
    flat = [p for p in names if _is_flat(p)]
    # Where nothing is sharded, parameters are flattened but for the time in between.
    if any(p.ndim > 1 for p in flat):
        return
    for tx, groups in chains:
        sliced = [p for p in groups if _is_flat(p)] if flat else []
        if sliced and (where := _meeting(tx, frozenset(p.dtype for p in sliced))):
            raise ValueError(
                f"{who}: leaf {names[sliced[0]]!r} is a flat slice of "
                "FullyShardedDataParallel, on which only pointwise chains are right, and this one "
                f"is not: {where}. Shard with torch.distributed.fsdp.fully_shard instead, which "
                "keeps the shapes of leaves, or take a pointwise class such as AdamW"
            )


def count_in_zero(optimizer: Any, extra: Mapping[str, Any]) -> None:
    """Let chains go on that have done a step of leaves which other processes update.

    Args:
        optimizer: perhaps the local part of a ``ZeroRedundancyOptimizer``.
        extra: what its chains got besides gradients.
    """
    zero = _zero_around(optimizer)
    if zero is not None:
        both = zip(zero.param_groups, optimizer.param_groups, strict=True)
        moved = {
            optimizer.transform_of(mine)
            for every, mine in both
            if any(p.grad is not None for p in every["params"])
        }
        count_missed(optimizer, moved, extra)


def _is_flat(p: Tensor) -> bool:
    return getattr(p, "_is_flat_param", False) or getattr(p, "_fsdp_flattened", False)


def _check_zero(who: str, tx: GradientTransformation) -> None:
    """Raise unless the leaves of a chain need nothing of each other."""
    for path, member in members(tx):
        if holds(member, "leaves_independent") and member.execution.next_shared is None:
            continue
        raise ValueError(
            f"{who}: {path or tx.name} looks at all leaves together, and in a "
            "ZeroRedundancyOptimizer each process has some; leave it out (torch.nn.utils."
            "clip_grad_norm_ clips all gradients before step()), or use the optimizer without "
            "ZeroRedundancyOptimizer"
        )
