"""Add updates to parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import tree
from .errors import shape_mismatch
from .leaves import densify_leaf
from .plain import plain
from .rounding import round_stochastically
from .tree import PyTree


def apply_updates(params: PyTree, updates: PyTree, random_bits: PyTree = None) -> PyTree:
    """``params + updates``, added in at least float32 and rounded once to the parameter's dtype.

    Args:
        params: tree of tensors.
        updates: tree of the same structure; a None leaf leaves its parameter as it is.
        random_bits: tree of the same structure with integer tensors for the bfloat16 leaves that
            are rounded stochastically (see ``round_stochastically``) and None for the others,
            which are rounded to nearest. ``gx.stochastic_round`` does the same inside a chain.

    Raises:
        TreeMismatchError: the structures or two shapes differ (names the leaf and both shapes).
        ValueError: random bits for a leaf that is not bfloat16.

    >>> import torch, gradtx as gx
    >>> gx.apply_updates({"w": torch.ones(2)}, {"w": torch.tensor([-1.0, 1.0])})
    {'w': tensor([0., 2.])}
    """
    leaves, spec = tree.flatten(params)
    news = tree.leaves_like("apply_updates", spec, updates, "update", "parameter")
    bits: list[Any] = [None] * len(leaves)
    if random_bits is not None:
        bits = tree.leaves_like("apply_updates", spec, random_bits, "random_bits", "parameter")
    out: list[Any] = []
    for name, p, u, r in zip(tree.names(spec), leaves, news, bits, strict=True):
        if p is None or u is None:
            out.append(p)
            continue
        if tuple(u.shape) != tuple(p.shape):
            raise shape_mismatch("apply_updates", name, "update", u.shape, "parameter", p.shape)
        dense: Tensor = densify_leaf(u)
        moved = tree.accumulator(p) + dense
        out.append(moved.to(p.dtype) if r is None else _round(name, moved, p, r))
    return spec.unflatten(out)


def incremental_update(new: PyTree, old: PyTree, step_size: float | Tensor) -> PyTree:
    """``step_size new + (1 - step_size) old``, rounded once: Polyak averages of parameters.

    Args:
        new: tree of tensors.
        old: tree of the same structure; the result has its dtypes.
        step_size: share of the new tree.

    >>> import torch, gradtx as gx
    >>> gx.incremental_update({"w": torch.ones(1)}, {"w": torch.zeros(1)}, 0.25)
    {'w': tensor([0.2500])}
    """

    def mixed(a: Tensor, b: Tensor) -> Tensor:
        wide = tree.accumulator(b)
        return (wide + step_size * (tree.accumulator(a) - wide)).to(b.dtype)

    return tree.map(mixed, new, old)


def periodic_update(new: PyTree, old: PyTree, step: int | Tensor, period: int) -> PyTree:
    """The new tree at every step that ``period`` divides, else the old one.

    Args:
        new: tree of tensors.
        old: tree of the same structure.
        step: an integer or a 0-d integer tensor.
        period: >= 1.

    Raises:
        ValueError: ``period`` < 1.

    >>> import torch, gradtx as gx
    >>> gx.periodic_update({"w": torch.ones(1)}, {"w": torch.zeros(1)}, 3, period=2)
    {'w': tensor([0.])}
    """
    step, period = plain(step), plain(period)
    if isinstance(period, bool) or not isinstance(period, int) or period < 1:
        raise ValueError(f"periodic_update: period must be an integer >= 1, got {period!r}")
    if isinstance(step, int):
        return new if step % period == 0 else old
    return tree.where(step % period == 0, new, old)


def _round(name: str, moved: Tensor, p: Tensor, random_bits: Tensor) -> Tensor:
    if p.dtype != torch.bfloat16:
        raise ValueError(
            f"apply_updates: leaf {name!r} has random bits, but dtype {p.dtype}; "
            "only bfloat16 is rounded stochastically"
        )
    if random_bits.shape != p.shape:
        raise shape_mismatch(
            "apply_updates", name, "random_bits", random_bits.shape, "parameter", p.shape
        )
    return round_stochastically(moved.to(torch.float32), random_bits)
