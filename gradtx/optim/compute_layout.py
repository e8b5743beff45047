"""Say where the sharded leaves of an optimizer are updated."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..core.leaves import LeafInfo
from .declared_layouts import Declared
from .optimizer import Optimizer
from .shards import Shards

_WHO = "compute_layout"
Kind = TypeVar("Kind", bound=Optimizer)


def compute_layout(
    optimizer: Kind,
    by: Callable[[LeafInfo], str | None] | None = None,
    bucket_bytes: int = Declared().bucket_bytes,
) -> Kind:
    """Say how the leaves of an optimizer are updated that lie in shards (DTensors).

    Without a word every leaf is updated where the least is sent. Of a leaf one may say:

    - ``"owned"``: one rank gets the whole leaf and gives the others their parts.
    - ``"replicate"``: every rank gets the whole leaf, computes all of it and keeps all of its
      state. One exchange a step instead of two, for leaves so small that its latency counts.
    - ``"stacked"``: nothing must be sent, as for experts, heads and whatever treats elements one by
      one; an error where that is not so.
    - ``"local"``: the shard is updated as if it were the leaf, which is another update: matrices
      are orthogonalised in blocks, as many as there are ranks. Nothing is sent.

    What is owned or replicated travels in buckets, from the last parameter to the first: while one
    is computed, the gradients of the next and the results of the one before are on their way. More
    buckets take less memory for messages and hide more of them, fewer give all ranks something to
    do in each. Results are the same.

    All ranks call it alike, before any step or between steps. Copies and pickles of the optimizer
    do not know of it.

    Args:
        optimizer: of ``gx.optim``; it is changed in place.
        by: ``by(LeafInfo)`` is one of these layouts or None; default None for all.
        bucket_bytes: what a rank sends of one bucket, >= 1; a leaf larger than that goes alone, and
            leaves over all of which a chain sums go together.

    Returns:
        The optimizer.

    Raises:
        TypeError: no optimizer of ``gx.optim``.
        ValueError: ``bucket_bytes`` below 1, or an optimizer that ``gx.optim.zero1`` has changed.
            At the next step: no such layout, or one that does not suit the leaf (names it).

    Source: blocks of matrices arXiv 2510.16981.

    >>> import torch, gradtx as gx
    >>> # optimizer = gx.optim.Muon(fully_shard(model).named_parameters())
    >>> optimizer = gx.optim.SGD([torch.nn.Parameter(torch.ones(2))])
    >>> small = lambda leaf: "replicate" if leaf.numel < 4096 else None
    >>> gx.optim.compute_layout(optimizer, small) is optimizer
    True
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{_WHO}: needs a gradtx optimizer, got {type(optimizer).__name__}")
    if bucket_bytes < 1:
        raise ValueError(f"{_WHO}: bucket_bytes must be at least 1, got {bucket_bytes}")
    if type(optimizer._shards) is not Shards:
        raise ValueError(
            f"{_WHO}: zero1 has given the leaves of this optimizer owners already; layouts are of "
            "DTensors, as fully_shard makes them, without zero1"
        )
    optimizer._shards.declared = Declared(by, bucket_bytes)
    return optimizer
