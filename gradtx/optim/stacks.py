"""Leaves that are stacks of parts, of which ranks have some each: nothing need be sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.chain import Chain
from ..core.functions import identity
from ..core.protocol import GradientTransformation
from ..core.select import masked, partition
from ..fuse import Rows
from ..transforms import as_matrices
from .leaves import Leaves

Replace = Callable[[GradientTransformation, int], GradientTransformation]


def without_stacks(tx: GradientTransformation, rows: Rows) -> GradientTransformation:
    """A chain without the members that treat parts of a leaf one by one, if ranks have whole parts.

    >>> import torch, gradtx as gx
    >>> from gradtx.fuse import Rows
    >>> from gradtx.optim.stacks import without_stacks
    >>> experts = Rows(torch.empty(4, 3, 2, device="meta"), (0, 12, 24), own=0)
    >>> without_stacks(gx.chain(gx.trace(0.9), gx.orthogonalize()), experts)
    chain(trace(decay=0.9), identity())
    """
    return _replaced(tx, rows, lambda member, own: identity())


def for_parts(tx: GradientTransformation, rows: Rows) -> GradientTransformation:
    """The chain for the parts that this rank has."""

    def shared(member: GradientTransformation, own: int) -> GradientTransformation:
        assert member.execution.stacked is not None
        share: GradientTransformation = member.execution.stacked.share(member, own)
        return share

    return _replaced(tx, rows, shared)


def _replaced(tx: GradientTransformation, rows: Rows, fn: Replace) -> GradientTransformation:
    """The chain with other members where the leaf is a stack to them and ranks have whole parts."""
    hint, shape = tx.execution.stacked, tuple(rows.leaf.shape)
    count = None if hint is None else hint.count(tx, shape)
    if count and shape[0] % count == 0 and not _keeps_state(tx, rows.leaf):
        each = rows.leaf.numel() // count
        if all(bound % each == 0 for bound in rows.bounds):
            start, stop = rows.bounds[rows.own : rows.own + 2]
            return fn(tx, (stop - start) // each)
    if isinstance(tx, Chain):
        return Chain(tuple((name, _replaced(member, rows, fn)) for name, member in tx))
    if isinstance(tx, partition):
        inside = {label: _replaced(inner, rows, fn) for label, inner in tx.transforms.items()}
        return dataclasses.replace(tx, transforms=inside)
    if isinstance(tx, masked) or (isinstance(tx, as_matrices) and rows.leaf.ndim < tx.at_least):
        return dataclasses.replace(tx, transform=_replaced(tx.transform, rows, fn))
    return tx


def _keeps_state(tx: GradientTransformation, leaf: Tensor) -> bool:
    """Whether there is a state of a leaf, or none can be made: a partition shows it to others."""
    try:
        with torch.no_grad():
            state: Any = tx.init(Leaves({"leaf": leaf}))
    except ValueError:
        return True
    return any(isinstance(x, Tensor) for x in tree.leaves(state))
