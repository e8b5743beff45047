"""What a state holds of every leaf, wherever a member has put it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optree
from torch import Tensor

from . import tree
from .roles import roles
from .tree import PyTree


def map_leaf_states(fn: Callable[[int, Any], Any], state: PyTree, spec: Any) -> PyTree:
    """Apply ``fn(i, state of leaf i)`` wherever a state has the parameters' structure."""

    def like_params(node: Any) -> bool:
        return tree.matches(spec, node)

    def visit(node: Any) -> Any:
        if not like_params(node):
            return node
        return spec.unflatten([fn(i, s) for i, s in enumerate(spec.flatten_up_to(node))])

    return optree.tree_map(
        visit, state, is_leaf=like_params, none_is_leaf=True, namespace=tree.NAMESPACE
    )


def per_leaf(fn: Callable[[Tensor], Any], params: PyTree) -> PyTree:
    """A state per leaf; ``()`` where there is no parameter."""
    leaves, spec = tree.flatten(params)
    return spec.unflatten([() if p is None else fn(p) for p in leaves])


def filled(tree_with_gaps: PyTree, other: PyTree) -> PyTree:
    """Where the first tree has None, the leaf of the second."""
    leaves, spec = tree.flatten(tree_with_gaps)
    others = spec.flatten_up_to(other)
    return spec.unflatten([o if x is None else x for x, o in zip(leaves, others, strict=True)])


def map_fields(
    fn: Callable[[str, str, Any], Any], node: Any, name: str = "", role: str = ""
) -> Any:
    """Apply ``fn(field, role, tensor)`` to the tensors of one leaf's state."""
    if isinstance(node, Tensor):
        return fn(name, role, node)
    inside = tree.children(node)
    if not inside:
        return node
    own = roles(node)
    new = [map_fields(fn, child, key, own.get(key, "")) for key, child in inside]
    return tree.rebuild(node, new)
