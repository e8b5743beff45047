"""A member of a chain that runs as torch operations, on the lists that a step works on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.hyper import Overrides
from ...core.protocol import GradientTransformation
from ..frontend.layout import join, split
from .batch import Batch
from .segments import Members, Segment


def run_member(
    members: Members,
    segment: Segment,
    tx: GradientTransformation,
    batch: Batch,
    grads: list[Tensor],
    updates: list[Tensor] | None,
) -> tuple[list[Any], list[tuple[Tensor, Tensor]]]:
    """The updates that a member gives, and its state as pairs of old and new tensors.

    Args:
        members: of the chain.
        segment: the one that the member is.
        tx: the member.
        batch: the leaves.
        grads: their gradients.
        updates: what comes in; None for the gradients.
    """
    turned = batch.maximize or [False] * len(grads)
    grads = [-g if t else g for g, t in zip(grads, turned, strict=True)]
    updates = grads if updates is None else updates
    skeleton = members.skeleton_of(segment)
    old_shared = batch.shared[members.shared(segment)]
    per_leaf, old, own = [], [], []
    for states, structure in zip(batch.states, batch.structures, strict=True):
        inside, at = members.structure(segment, structure)
        own.append(inside)
        per_leaf.append(inside.subtrees(states[at]))
        old.append(states[at])
    sites = [_tree(batch, list(column)) for column in zip(*per_leaf, strict=True)]
    with torch.no_grad():
        new_u, new_state = tx.update(
            _tree(batch, updates),
            join(skeleton, sites, list(old_shared)),
            _tree(batch, [p.detach() for p in batch.params]),
            grads=_tree(batch, grads),
            hyper=_hyper(batch),
            **batch.extra,
        )
    new_sites, new_shared = split(skeleton, new_state, batch.spec)
    pairs = list(zip(old_shared, new_shared, strict=True))
    for i, position in enumerate(batch.positions):
        values = own[i].flat([site[position] for site in new_sites])
        pairs.extend(zip(old[i], values, strict=True))
    leaves = batch.spec.flatten_up_to(new_u)
    return [leaves[position] for position in batch.positions], pairs


def copy_all(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Overwrite the first of every pair by the second, in one call."""
    if pairs:
        olds, news = zip(*pairs, strict=True)
        torch._foreach_copy_(olds, news)


def _tree(batch: Batch, values: Sequence[Any]) -> Any:
    leaves: list[Any] = [None] * batch.spec.num_leaves
    for position, value in zip(batch.positions, values, strict=True):
        leaves[position] = value
    return batch.spec.unflatten(leaves)


def _hyper(batch: Batch) -> Overrides:
    if len(batch.hyper) == 1:
        return Overrides(batch.hyper[0])
    return Overrides(
        {name: _tree(batch, [batch.hyper[r][name] for r in batch.rows]) for name in batch.hyper[0]}
    )
