"""Add updates to parameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import tree
from .errors import shape_mismatch
from .leaves import densify_leaf
from .tree import PyTree


def apply_updates(params: PyTree, updates: PyTree) -> PyTree:
    """``params + updates``, added in at least float32 and rounded once to the parameter's dtype.

    Args:
        params: tree of tensors.
        updates: tree of the same structure; a None leaf leaves its parameter as it is.

    Raises:
        TreeMismatchError: the structures or two shapes differ (names the leaf and both shapes).

    >>> import torch, gradtx as gx
    >>> gx.apply_updates({"w": torch.ones(2)}, {"w": torch.tensor([-1.0, 1.0])})
    {'w': tensor([0., 2.])}
    """
    leaves, spec = tree.flatten(params)
    news = tree.leaves_like("apply_updates", spec, updates, "update")
    out: list[Any] = []
    for name, p, u in zip(tree.names(spec), leaves, news, strict=True):
        if p is None or u is None:
            out.append(p)
            continue
        if tuple(u.shape) != tuple(p.shape):
            raise shape_mismatch("apply_updates", name, "update", u.shape, "parameter", p.shape)
        dense: Tensor = densify_leaf(u)
        out.append((tree.accumulator(p) + dense).to(p.dtype))
    return spec.unflatten(out)
