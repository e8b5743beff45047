"""The whole tree as one vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import tree
from .checks import check_tensors
from .errors import TreeMismatchError
from .extra import map_trees
from .leaves import ANY_UPDATE, densify_leaf
from .protocol import Wrapper
from .tree import PyTree


@dataclass(frozen=True)
class flatten(Wrapper):
    """Run a transform on all leaves concatenated into one vector, then cut the result up again.

    The inner transform sees the tree ``{"flat": vector}``, leaves in tree order. Every leaf that
    had a parameter at ``init`` needs an update at every call.

    Args:
        transform: the inner transform.

    Raises:
        TreeMismatchError: a leaf has no update.

    >>> import torch, gradtx as gx
    >>> tx = gx.flatten(gx.normalize_by_update_norm())
    >>> params = {"a": torch.zeros(1), "b": torch.zeros(1)}
    >>> tx.update({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}, tx.init(params))[0]
    {'a': tensor([0.6000]), 'b': tensor([0.8000])}
    """

    def init(self, params: PyTree) -> PyTree:
        check_tensors(self.name, params, what="parameter")
        return self.transform.init(_join(params))

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        check_tensors(self.name, updates, params, accepts=ANY_UPDATE)
        updates = tree.map(densify_leaf, updates)
        leaves, spec = tree.flatten(updates)
        if any(x is None for x in leaves):
            missing = [n for n, x in zip(tree.names(spec), leaves, strict=True) if x is None]
            raise TreeMismatchError(
                f"flatten: leaf {missing[0]!r} has no update; the vector needs every leaf"
            )
        extra = map_trees(_join, extra, updates)
        flat_params = None if params is None else _join(params)
        new, state = self.update_transform(_join(updates), state, flat_params, extra)
        sizes = [x.numel() for x in leaves]
        parts = torch.split(densify_leaf(new["flat"]), sizes)
        cut = [
            part.reshape(x.shape).to(tree.accumulator_dtype(x.dtype))
            for part, x in zip(parts, leaves, strict=True)
        ]
        return spec.unflatten(cut), state


def _join(values: PyTree) -> dict[str, Tensor]:
    flat = [densify_leaf(x).reshape(-1) for x in tree.leaves(values)]
    if not flat:
        return {"flat": torch.zeros(0, dtype=torch.float32, device="cpu")}
    return {"flat": torch.cat([tree.accumulator(x) for x in flat])}
