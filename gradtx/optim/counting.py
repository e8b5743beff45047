"""A step of a chain of which other processes, or other buckets, have the leaves with gradients."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.protocol import GradientTransformation
from .arguments import of_parameters
from .leaves import Leaves, from_nested, merge_into, per_leaf, to_nested


def count_missed(
    optimizer: Any, moved: Container[GradientTransformation], extra: Mapping[str, Any]
) -> None:
    """Let chains count a step for which none of an optimizer's leaves had a gradient.

    Args:
        optimizer: which has done the step.
        moved: the chains of which some leaf had one, here or in another process.
        extra: what they got.
    """
    names = optimizer._names()
    for tx, groups in optimizer._buckets():
        if groups and tx in moved and all(p.grad is None for p in groups):
            with torch.no_grad():
                count_step(optimizer, tx, groups, names, extra)


def count_step(
    optimizer: Any,
    tx: GradientTransformation,
    groups: Mapping[Tensor, dict[str, Any]],
    names: Mapping[Tensor, str],
    extra: Mapping[str, Any],
) -> None:
    """Let what the leaves of a chain share go on as in a step of other leaves.

    Args:
        optimizer: whose chain it is.
        tx: the chain, whose leaves are independent of each other.
        groups: of its parameters, none of which has a gradient.
        names: of the parameters.
        extra: what the chain gets besides gradients.
    """
    first = next(iter(groups))
    skeleton = optimizer._skeletons.of(tx, first, names[first])[0]
    if not to_nested(skeleton, None):
        return
    optimizer._init_states(lambda p: p in groups and p.requires_grad)
    stored = next((optimizer.state[p] for p in groups if optimizer.state.get(p)), None)
    if stored is None:
        return
    before = from_nested({names[first]: skeleton}, {}, stored)
    values = per_leaf(groups, names, optimizer._values)
    hyper = {key: Leaves() if isinstance(x, Leaves) else x for key, x in values.items()}
    step = optimizer._fused.fallback(tx, "eager")
    after = step(Leaves(), before, Leaves(), hyper, of_parameters(extra, {}, names))[1]
    for p, group in groups.items():
        if optimizer.state.get(p):
            merge_into(optimizer.state[p], to_nested(after, None), in_place=group["capturable"])
    optimizer._repeat = None
