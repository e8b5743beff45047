"""Which calls ``multi_steps`` passes over: functions of the updates, chosen without branching."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import tree
from .leaves import densify_leaf
from .reduce import LOCAL, Reduce
from .tree import PyTree


def skip_not_finite(
    updates: PyTree, gradient_step: Tensor, params: PyTree, reduce: Reduce = LOCAL
) -> tuple[Tensor, dict[str, Tensor]]:
    """Whether some entry is infinite or NaN; for ``multi_steps(should_skip_update_fn=...)``.

    Returns:
        The flag, and ``{"should_skip": flag, "num_not_finite": int64}``.

    >>> import torch, gradtx as gx
    >>> gx.skip_not_finite({"w": torch.tensor([1.0, torch.nan])}, torch.tensor(0), None)[0]
    tensor(True)
    """
    count = reduce.sum(_total([_not_finite(x) for x in tree.leaves(updates)], gradient_step))
    return count > 0, {"should_skip": count > 0, "num_not_finite": count}


def skip_large(
    updates: PyTree,
    gradient_step: Tensor,
    params: PyTree,
    max_squared_norm: float | Tensor,
    reduce: Reduce = LOCAL,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Whether the squared global norm is at least a bound, or NaN.

    For ``multi_steps(should_skip_update_fn=functools.partial(gx.skip_large, ...))``.

    Args:
        updates: what the call got.
        gradient_step: not used; another such function may let its bound depend on it.
        params: not used.
        max_squared_norm: squared norms from this on are skipped.
        reduce: adds up over leaves and shards.

    Returns:
        The flag, and ``{"should_skip": flag, "norm_squared": 0-d}``.

    >>> import torch, gradtx as gx
    >>> gx.skip_large({"w": torch.tensor([3.0, 4.0])}, torch.tensor(0), None, 25.0)[0]
    tensor(True)
    """
    square = reduce.sum(_total([tree.squared_norm(x) for x in tree.leaves(updates)], gradient_step))
    return ~(square < max_squared_norm), {
        "should_skip": ~(square < max_squared_norm),
        "norm_squared": square,
    }


def _not_finite(leaf: Any) -> Tensor:
    return (~torch.isfinite(densify_leaf(leaf))).sum()


def _total(scalars: list[Any], like: Tensor) -> Tensor:
    return tree.total(scalars) if scalars else torch.zeros_like(like)
