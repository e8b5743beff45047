"""Extra arguments of ``update``: which of them are trees of leaves, like the updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import tree
from .protocol import GradientTransformation, members
from .tree import PyTree

# What has a meaning of its own, whatever its structure is.
_NO_TREES = ("hyper", "reduce", "unit", "value")


def map_trees(
    fn: Callable[[PyTree], PyTree], extra: Mapping[str, Any], updates: PyTree
) -> dict[str, Any]:
    """The arguments, with ``fn`` applied to those that have the updates' structure and shapes.

    Wrappers that show a transform another tree than they got, some leaves or one vector, treat
    these like the updates.

    >>> import torch
    >>> from gradtx.core.extra import map_trees
    >>> updates, extra = {"w": torch.ones(2)}, {"value": 1.0, "hessian": {"w": torch.zeros(2)}}
    >>> map_trees(lambda t: "seen", extra, updates)
    {'value': 1.0, 'hessian': 'seen'}
    """
    is_like = _like(updates)
    return {k: fn(v) if k not in _NO_TREES and is_like(v) else v for k, v in extra.items()}


def without_trees(
    wrapper: GradientTransformation, extra: Mapping[str, Any], updates: PyTree
) -> dict[str, Any]:
    """The arguments without those that have the updates' structure and shapes.

    For wrappers whose transform sees other coordinates, in which nothing is known of these.

    Raises:
        ValueError: a transform inside declares one of them.

    >>> import torch, gradtx as gx
    >>> from gradtx.core.extra import without_trees
    >>> tx = gx.in_basis(gx.identity())
    >>> without_trees(tx, {"value": 1.0, "hessian": [torch.zeros(2)]}, [torch.ones(2)])
    {'value': 1.0}
    """
    is_like = _like(updates)
    gone = {k for k, v in extra.items() if k not in _NO_TREES and is_like(v)}
    for _, member in members(wrapper) if gone - {"grads"} else ():
        for name in (*getattr(member, "needs_extra", ()), *getattr(member, "takes_extra", ())):
            if name in gone:
                raise ValueError(
                    f"{wrapper.name}: {member.name} takes {name}, which has the coordinates of the "
                    f"parameters; inside {wrapper.name} there are others"
                )
    return {k: v for k, v in extra.items() if k not in gone}


def _like(updates: PyTree) -> Callable[[Any], bool]:
    leaves, spec = tree.flatten(updates)

    def is_like(given: Any) -> bool:
        others, other_spec = tree.flatten(given)
        return other_spec == spec and all(
            x is None or u is None or getattr(x, "shape", None) == getattr(u, "shape", None)
            for u, x in zip(leaves, others, strict=True)
        )

    return is_like
