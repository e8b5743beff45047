"""Hypothesis strategies for small trees of tensors, and shorthands."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

import gradtx as gx

shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
seeds = st.integers(0, 2**31 - 1)


@st.composite
def tensors(draw: Any, shape: tuple[int, ...] | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(draw(seeds))
    return torch.randn(draw(shapes) if shape is None else shape, generator=generator)


def trees(leaves: Any = None) -> st.SearchStrategy[Any]:
    """Dicts, lists and tuples, a few levels deep, with at least one level."""
    leaves = tensors() if leaves is None else leaves
    keys = st.sampled_from("abcd")
    inner = st.recursive(
        leaves,
        lambda sub: st.one_of(
            st.dictionaries(keys, sub, max_size=3),
            st.lists(sub, max_size=3),
            st.tuples(sub, sub),
        ),
        max_leaves=5,
    )
    return st.dictionaries(keys, inner, min_size=1, max_size=3)


def like(tree: Any, seed: int) -> Any:
    """Another tree of the same shapes."""
    generator = torch.Generator().manual_seed(seed)
    return gx.tree.map(lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype), tree)


def run(tx: gx.GradientTransformation, params: Any, steps: int = 3, seed: int = 0) -> Any:
    """Updates of some steps with random gradients, and the last state."""
    state, outs = tx.init(params), []
    for step in range(steps):
        out, state = tx.update(like(params, seed + step), state, params)
        outs.append(out)
    return outs, state


def same(a: Any, b: Any) -> bool:
    """Equal structure and numbers."""
    if gx.tree.flatten(a)[1] != gx.tree.flatten(b)[1]:
        return False
    return all(torch.equal(x, y) for x, y in zip(gx.tree.leaves(a), gx.tree.leaves(b), strict=True))


def close(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    assert gx.tree.flatten(a)[1] == gx.tree.flatten(b)[1]
    for x, y in zip(gx.tree.leaves(a), gx.tree.leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=rtol, atol=atol)


def some_transform() -> gx.GradientTransformation:
    """A stateful leaf transform that needs parameters."""
    return gx.chain(gx.scale_by_adam(0.7, 0.9), gx.add_decayed_weights(0.1), gx.trace(0.5))
