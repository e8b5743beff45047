"""How moments that a transform keeps in a basis follow when the basis turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ...codecs import as_codec
from ...core import tree
from ...core.leaf_states import map_leaf_states
from ...core.protocol import GradientTransformation, members
from ...core.roles import SECOND, roles
from ...core.tree import PyTree

# (leaf, moment in full, whether it is a second one) -> the moment in the new basis.
Carry = Callable[[int, Tensor, bool], Tensor]


def carried(
    tx: GradientTransformation, state: PyTree, spec: Any, likes: list[Any], carry: Carry
) -> PyTree:
    """The state of ``tx`` with every moment of the leaves' shape replaced by ``carry`` of it.

    Args:
        tx: the transform that has the state.
        state: its state.
        spec: structure of the updates.
        likes: tensors of the updates' shape and dtype; None for leaves that stay.
        carry: the function.
    """
    inner = tx.inner
    if inner and isinstance(state, Mapping) and set(state) == set(inner):
        return {name: carried(inner[name], state[name], spec, likes, carry) for name in state}

    def leaf(i: int, s: Any) -> Any:
        return s if likes[i] is None else _moments(tx, s, "", "", i, likes[i], carry)

    return map_leaf_states(leaf, state, spec)


def _codec_of(tx: GradientTransformation, name: str) -> Any:
    """The codec of a field of a state, also where a wrapper's state is that of what it wraps."""
    for _, member in members(tx):
        codec = getattr(member, f"{name}_codec", None) or getattr(member, "codec", None)
        if codec is not None:
            return codec
    return None


def _moments(
    tx: GradientTransformation,
    node: Any,
    name: str,
    role: str,
    i: int,
    like: Tensor,
    carry: Carry,
) -> Any:
    """One leaf's state, gone through field by field."""
    if role and node != ():
        second = role == SECOND
        if isinstance(node, Tensor):
            if node.shape != like.shape:
                return node
            return carry(i, node.to(like.dtype), second).to(node.dtype)
        codec = as_codec(_codec_of(tx, name))
        return codec.encode(carry(i, codec.decode(node, like), second), node)
    if isinstance(node, Tensor):
        return node
    inside = tree.children(node)
    if not inside:
        return node
    own = roles(node)
    new = [_moments(tx, x, key, own.get(key, ""), i, like, carry) for key, x in inside]
    return tree.rebuild(node, new)
