"""A step of the adapter as torch operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..core.protocol import GradientTransformation
from ..distributed.agreed import Agreed
from .arguments import of_parameters
from .leaves import (
    Leaves,
    Nested,
    gradient_of,
    per_leaf,
    storage_of,
    tensors,
    to_nested,
    with_own_memory,
)
from .options import check_fallback


def compute(
    optimizer: Any,
    tx: GradientTransformation,
    groups: Mapping[Tensor, dict[str, Any]],
    active: Mapping[Tensor, dict[str, Any]],
    names: Mapping[Tensor, str],
    extra: Mapping[str, Any],
) -> tuple[Leaves, dict[str, Nested], Nested]:
    """New parameters, new state per parameter and its shared part; changes nothing.

    Args:
        optimizer: whose step it is.
        tx: the chain.
        groups: of all its parameters.
        active: of those that have a gradient.
        names: of the parameters.
        extra: what the chain gets besides gradients.
    """
    params = Leaves({names[p]: p for p in active})
    grads = Leaves({names[p]: gradient_of(tx, names[p], p, g) for p, g in active.items()})
    state = optimizer._gather(tx, groups, active, names)
    hyper = per_leaf(active, names, optimizer._values)
    how = check_fallback(type(optimizer).__name__, next(iter(active.values())))
    step = optimizer._fused.fallback(tx, how)
    given = of_parameters(extra, active, names)
    reduce = optimizer._fused.reducing.get(tx)
    if reduce is not None:
        given["reduce"] = reduce.operations if isinstance(reduce, Agreed) else reduce
    new_params, new_state = step(grads, state, params, hyper, given)
    if isinstance(reduce, Agreed):  # a step in which nothing is summed
        reduce.settle()
    foreign = {storage_of(t) for p in active for t in (p, p.grad) if t is not None}
    for p, group in active.items():
        if group["capturable"]:  # written in place: no entry may lie where another one is
            foreign.update(storage_of(t) for t in tensors(optimizer.state.get(p, {})))
    nested = {name: with_own_memory(to_nested(new_state, name), foreign) for name in params}
    return new_params, nested, to_nested(new_state, None)
