"""Dtypes, complex numbers and random keys of trees."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import Tensor

from . import tree
from .random import fold_in
from .tree import PyTree

__all__ = ["batch_shape", "cast_like", "conj", "dtype", "real", "split_key_like"]


def cast_like(values: PyTree, like: PyTree) -> PyTree:
    """Every leaf in the dtype of the same leaf of another tree.

    >>> import torch, gradtx as gx
    >>> gx.tree.cast_like({"a": torch.ones(1)}, {"a": torch.zeros(1, dtype=torch.float64)})
    {'a': tensor([1.], dtype=torch.float64)}
    """
    return tree.map(lambda x, y: x.to(y.dtype), values, like)


def dtype(
    values: PyTree, mixed: Literal["promote", "highest", "lowest"] | None = None
) -> torch.dtype:
    """The dtype of the leaves.

    Args:
        values: tree of tensors.
        mixed: what is given where leaves differ: what they promote to, or the highest or lowest of
            theirs, those between which promotion chooses; None for an error.

    Raises:
        ValueError: no leaves, different ones without ``mixed``, or ones that cannot be compared.

    >>> import torch, gradtx as gx
    >>> gx.tree.dtype({"a": torch.ones(1), "b": torch.ones(1, dtype=torch.bfloat16)}, "lowest")
    torch.bfloat16
    """
    found = list(dict.fromkeys(x.dtype for x in tree.leaves(values)))
    if not found:
        raise ValueError("tree.dtype: the tree has no leaves")
    if len(found) == 1 or mixed == "promote":
        return functools.reduce(torch.promote_types, found)
    if mixed is None:
        raise ValueError(f"tree.dtype: the leaves have different dtypes, {found}; say which: mixed")
    if mixed not in ("highest", "lowest"):
        raise ValueError(
            f"tree.dtype: mixed must be None, 'promote', 'highest' or 'lowest', got {mixed!r}"
        )
    return functools.reduce(functools.partial(_end, mixed), found)


def _end(which: str, a: torch.dtype, b: torch.dtype) -> torch.dtype:
    high = torch.promote_types(a, b)
    if high not in (a, b):
        raise ValueError(f"tree.dtype: neither of {a} and {b} is promoted to the other")
    return high if which == "highest" else (b if high == a else a)


def conj(values: PyTree) -> PyTree:
    """Complex conjugates.

    >>> import torch, gradtx as gx
    >>> gx.tree.conj({"a": torch.tensor([1 + 2j])})
    {'a': tensor([1.-2.j])}
    """
    return tree.map(lambda x: torch.conj(x).resolve_conj(), values)


def real(values: PyTree) -> PyTree:
    """Real parts.

    >>> import torch, gradtx as gx
    >>> gx.tree.real({"a": torch.tensor([1 + 2j])})
    {'a': tensor([1.])}
    """
    return tree.map(lambda x: torch.real(x) if x.is_complex() else x, values)


def batch_shape(values: PyTree, shape: tuple[int, ...] = ()) -> PyTree:
    """Every leaf repeated along new leading dimensions, without a copy.

    >>> import torch, gradtx as gx
    >>> gx.tree.batch_shape({"a": torch.ones(2)}, (3,))["a"].shape
    torch.Size([3, 2])
    """
    return tree.map(lambda x: x.expand(*shape, *x.shape), values)


def split_key_like(key: Tensor, like: PyTree) -> PyTree:
    """A random key for every leaf, which follows from the key and the leaf's name.

    Args:
        key: int64 (2,), as ``gradtx.core.random.make_key`` gives.
        like: any tree.

    >>> import torch, gradtx as gx
    >>> from gradtx.core.random import make_key
    >>> gx.tree.split_key_like(make_key(0), {"a": 1.0})["a"].shape
    torch.Size([2])
    """

    def of_leaf(name: str, x: Any) -> Tensor:
        return fold_in(key.to(x.device) if isinstance(x, Tensor) else key, name)

    return tree.map_with_name(of_leaf, like)
