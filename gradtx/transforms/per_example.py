"""Clipping of per-example gradients, which have the examples in their first dimension."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.roots import clipping
from ..core.tree import PyTree


def per_example_global_norm_clip(grads: PyTree, max_norm: float | Tensor) -> tuple[PyTree, Tensor]:
    """Clip every example's gradient, all leaves together, to a norm, and add the examples up.

    Args:
        grads: tree of tensors (examples, ...).
        max_norm: largest norm of an example's gradient, >= 0.

    Returns:
        The sum over examples, and how many were clipped (0-d integer).

    Raises:
        ValueError: leaves without, or of different numbers of, examples.

    Source: arXiv 1607.00133.

    >>> import torch, gradtx as gx
    >>> grads = {"w": torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.3, 0.4]])}
    >>> gx.per_example_global_norm_clip(grads, 1.0)
    ({'w': tensor([0.9000, 1.2000])}, tensor(1))
    """
    _check("per_example_global_norm_clip", grads)
    squares = torch.stack([_squares(g) for g in tree.leaves(grads)]).sum(0)  # (examples,)
    factors = clipping(squares, max_norm)
    summed = tree.map(lambda g: torch.tensordot(factors.to(g), g, 1), grads)
    return summed, (factors < 1).sum()


def per_example_layer_norm_clip(
    grads: PyTree, max_norm: float | Tensor, uniform: bool = True
) -> tuple[PyTree, PyTree]:
    """Clip every example's gradient leaf by leaf, and add the examples up.

    Args:
        grads: tree of tensors (examples, ...).
        max_norm: largest norm of an example's gradient, all leaves together, >= 0.
        uniform: whether each of K leaves may have ``max_norm / sqrt(K)``; else a leaf has the
            root of its share of entries.

    Returns:
        The sum over examples, and per leaf how many were clipped (0-d integers).

    Raises:
        ValueError: leaves without, or of different numbers of, examples.

    Source: arXiv 1710.06963.

    >>> import torch, gradtx as gx
    >>> gx.per_example_layer_norm_clip({"w": torch.tensor([[3.0, 4.0], [0.3, 0.4]])}, 1.0)
    ({'w': tensor([0.9000, 1.2000])}, {'w': tensor(1)})
    """
    _check("per_example_layer_norm_clip", grads)
    leaves, spec = tree.flatten(grads)
    there = [g for g in leaves if g is not None]
    entries = sum(g[0].numel() for g in there)
    sums: list[Any] = []
    counts: list[Any] = []
    for g in leaves:
        if g is None:
            sums.append(None)
            counts.append(None)
            continue
        share = 1 / len(there) if uniform else g[0].numel() / entries
        factors = clipping(_squares(g), max_norm * share**0.5)
        sums.append(torch.tensordot(factors.to(g), g, 1))
        counts.append((factors < 1).sum())
    return spec.unflatten(sums), spec.unflatten(counts)


def _squares(g: Tensor) -> Tensor:
    return tree.accumulator(g).square().flatten(1).sum(1) if g.ndim > 1 else g.square()


def _check(who: str, grads: PyTree) -> None:
    counts = {g.shape[0] if g.ndim else None for g in tree.leaves(grads)}
    if len(counts) != 1 or None in counts or 0 in counts:
        raise ValueError(
            f"{who}: every leaf must have the same number of examples in its first dimension, "
            f"got {sorted(map(str, counts))}"
        )
