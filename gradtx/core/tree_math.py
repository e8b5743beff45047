"""Arithmetic of trees, entry by entry, and what is added up over all entries."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from . import tree
from .hyper import one_minus_power
from .parts import power
from .random import normal
from .roots import root
from .sums import element_sum
from .tree import PyTree
from .tree_dtypes import split_key_like

__all__ = [
    "add",
    "add_scale",
    "allclose",
    "bias_correction",
    "clip",
    "div",
    "full_like",
    "max",
    "min",
    "mul",
    "norm",
    "ones_like",
    "random_like",
    "scale",
    "size",
    "sub",
    "sum",
    "update_infinity_moment",
    "update_moment",
    "update_moment_per_elem_norm",
]


def add(a: PyTree, b: PyTree, *others: PyTree) -> PyTree:
    """The sum of two or more trees.

    >>> import torch, gradtx as gx
    >>> gx.tree.add({"a": torch.ones(1)}, {"a": torch.ones(1)}, {"a": torch.ones(1)})
    {'a': tensor([3.])}
    """
    return tree.map(lambda x, *rest: builtins.sum(rest, x), a, b, *others)


def sub(a: PyTree, b: PyTree) -> PyTree:
    """The difference of two trees.

    >>> import torch, gradtx as gx
    >>> gx.tree.sub({"a": torch.ones(1)}, {"a": torch.full((1,), 3.0)})
    {'a': tensor([-2.])}
    """
    return tree.map(lambda x, y: x - y, a, b)


def mul(a: PyTree, b: PyTree) -> PyTree:
    """The product of two trees, entry by entry.

    >>> import torch, gradtx as gx
    >>> gx.tree.mul({"a": torch.full((1,), 2.0)}, {"a": torch.full((1,), 3.0)})
    {'a': tensor([6.])}
    """
    return tree.map(lambda x, y: x * y, a, b)


def div(a: PyTree, b: PyTree) -> PyTree:
    """The quotient of two trees, entry by entry.

    >>> import torch, gradtx as gx
    >>> gx.tree.div({"a": torch.full((1,), 6.0)}, {"a": torch.full((1,), 3.0)})
    {'a': tensor([2.])}
    """
    return tree.map(lambda x, y: x / y, a, b)


def scale(factor: float | Tensor, values: PyTree) -> PyTree:
    """A tree times a number, or a 0-d tensor.

    >>> import torch, gradtx as gx
    >>> gx.tree.scale(0.5, {"a": torch.ones(1)})
    {'a': tensor([0.5000])}
    """
    return tree.map(lambda x: (factor * x).to(x.dtype), values)


def add_scale(a: PyTree, factor: float | Tensor, b: PyTree) -> PyTree:
    """``a + factor b``.

    >>> import torch, gradtx as gx
    >>> gx.tree.add_scale({"a": torch.ones(1)}, -2.0, {"a": torch.ones(1)})
    {'a': tensor([-1.])}
    """
    return tree.map(lambda x, y: (x + factor * y).to(x.dtype), a, b)


def clip(
    values: PyTree, low: float | Tensor | None = None, high: float | Tensor | None = None
) -> PyTree:
    """Every entry limited to an interval.

    >>> import torch, gradtx as gx
    >>> gx.tree.clip({"a": torch.tensor([-3.0, 3.0])}, -1.0, 2.0)
    {'a': tensor([-1.,  2.])}
    """
    return tree.map(lambda x: torch.clamp(x, low, high), values)  # type: ignore[arg-type]


def sum(values: PyTree) -> Tensor:
    """The sum of all entries, accumulated in at least float32.

    >>> import torch, gradtx as gx
    >>> gx.tree.sum({"a": torch.ones(2), "b": torch.ones(3), "c": None})
    tensor(5.)
    """
    return tree.total([element_sum(tree.accumulator(x)) for x in tree.leaves(values)])


def max(values: PyTree) -> Tensor:
    """The largest entry.

    Raises:
        ValueError: there is none.

    >>> import torch, gradtx as gx
    >>> gx.tree.max({"a": torch.ones(2), "b": torch.full((1,), 3.0)})
    tensor(3.)
    """
    return _extreme("max", torch.maximum, torch.max, values)


def min(values: PyTree) -> Tensor:
    """The smallest entry.

    Raises:
        ValueError: there is none.

    >>> import torch, gradtx as gx
    >>> gx.tree.min({"a": torch.ones(2), "b": torch.full((1,), 3.0)})
    tensor(1.)
    """
    return _extreme("min", torch.minimum, torch.min, values)


def _extreme(
    who: str, pair: Callable[..., Tensor], whole: Callable[..., Tensor], values: PyTree
) -> Tensor:
    parts = [whole(x) for x in tree.leaves(values) if x.numel()]
    if not parts:
        raise ValueError(f"tree.{who}: the tree has no entries")
    out = parts[0]
    for x in parts[1:]:
        out = pair(out, x.to(out.device))
    return out


def size(values: PyTree) -> int:
    """The number of entries.

    >>> import torch, gradtx as gx
    >>> gx.tree.size({"a": torch.ones(2, 3), "b": torch.tensor(1.0)})
    7
    """
    return builtins.sum(x.numel() for x in tree.leaves(values))


def norm(values: PyTree, ord: Literal[1, 2] | float = 2, squared: bool = False) -> Tensor:
    """The norm of all entries as one vector, in at least float32.

    Args:
        values: tree of tensors.
        ord: 1, 2 or infinity.
        squared: the square instead.

    Raises:
        ValueError: another ``ord``.

    >>> import torch, gradtx as gx
    >>> values = {"a": torch.tensor([3.0]), "b": torch.tensor([-4.0])}
    >>> gx.tree.norm(values), gx.tree.norm(values, 1), gx.tree.norm(values, squared=True)
    (tensor(5.), tensor(7.), tensor(25.))
    """
    if ord == 2:
        square = tree.total([tree.squared_norm(x) for x in tree.leaves(values)])
        return square if squared else root(square)
    if ord == 1:
        out = sum(tree.map(torch.abs, values))
    elif ord == torch.inf:
        out = max(tree.map(torch.abs, values))
    else:
        raise ValueError(f"tree.norm: ord must be 1, 2 or infinity, got {ord!r}")
    return out * out if squared else out


def full_like(values: PyTree, fill: float, dtype: torch.dtype | None = None) -> PyTree:
    """One number in every entry.

    >>> import torch, gradtx as gx
    >>> gx.tree.full_like({"a": torch.zeros(2)}, 3.0)
    {'a': tensor([3., 3.])}
    """
    return tree.map(lambda x: torch.full_like(x, fill, dtype=dtype), values)


def ones_like(values: PyTree, dtype: torch.dtype | None = None) -> PyTree:
    """Ones of the same shapes.

    >>> import torch, gradtx as gx
    >>> gx.tree.ones_like({"a": torch.zeros(2)})
    {'a': tensor([1., 1.])}
    """
    return full_like(values, 1.0, dtype)


def random_like(
    key: Tensor,
    values: PyTree,
    sampler: Callable[[Tensor, tuple[int, ...], torch.dtype], Tensor] = normal,
    dtype: torch.dtype | None = None,
) -> PyTree:
    """Random numbers of the same shapes; those of a leaf depend on the key and its name.

    Args:
        key: int64 (2,), as ``gradtx.core.random.make_key`` gives.
        values: tree of floating-point tensors.
        sampler: ``(key, shape, dtype) -> tensor``, such as those of ``gradtx.core.random``.
        dtype: of the numbers; default that of each leaf.

    >>> import torch, gradtx as gx
    >>> from gradtx.core.random import make_key, uniform
    >>> gx.tree.random_like(make_key(0), {"a": torch.zeros(2)}, uniform)["a"].shape
    torch.Size([2])
    """
    keys = split_key_like(key, values)
    return tree.map(lambda x, k: sampler(k, tuple(x.shape), dtype or x.dtype), values, keys)


def allclose(
    a: PyTree, b: PyTree, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """Whether all entries are nearly equal, as a 0-d tensor; with ``equal_nan`` NaN equals NaN.

    >>> import torch, gradtx as gx
    >>> gx.tree.allclose({"a": torch.ones(1)}, {"a": torch.ones(1) + 1e-7})
    tensor(True)
    """
    close = tree.leaves(
        tree.map(lambda x, y: torch.isclose(x, y, rtol, atol, equal_nan).all(), a, b)
    )
    return torch.stack(close).all() if close else torch.ones((), dtype=torch.bool, device="cpu")


def update_moment(
    updates: PyTree, moments: PyTree, decay: float | Tensor, order: int = 1
) -> PyTree:
    """``decay m + (1 - decay) u^order``.

    >>> import torch, gradtx as gx
    >>> gx.tree.update_moment({"a": torch.full((1,), 4.0)}, {"a": torch.zeros(1)}, 0.75, 2)
    {'a': tensor([4.])}
    """
    return tree.map(lambda u, m: (decay * m + (1 - decay) * u**order).to(m.dtype), updates, moments)


def update_moment_per_elem_norm(
    updates: PyTree, moments: PyTree, decay: float | Tensor, order: int = 2
) -> PyTree:
    """``decay m + (1 - decay) |u|^order``, for complex entries too.

    Real entries keep the sign of an odd power, as in ``update_moment``.

    >>> import torch, gradtx as gx
    >>> gx.tree.update_moment_per_elem_norm({"a": torch.tensor([3 + 4j])}, {"a": torch.zeros(1)}, 0)
    {'a': tensor([25.])}
    """

    def updated(u: Tensor, m: Tensor) -> Tensor:
        size = (
            (u.real.square() + u.imag.square()) ** (order / 2)
            if u.is_complex()
            else power(u, order)
        )
        return (decay * m + (1 - decay) * size).to(m.dtype)

    return tree.map(updated, updates, moments)


def update_infinity_moment(
    updates: PyTree, moments: PyTree, decay: float | Tensor, eps: float | Tensor
) -> PyTree:
    """``max(|u| + eps, decay m)``.

    >>> import torch, gradtx as gx
    >>> gx.tree.update_infinity_moment({"a": torch.tensor([-1.0])}, {"a": torch.ones(1)}, 0.5, 0.0)
    {'a': tensor([1.])}
    """
    return tree.map(
        lambda u, m: torch.maximum(u.abs() + eps, decay * m).to(m.dtype), updates, moments
    )


def bias_correction(moments: PyTree, decay: float | Tensor, count: Any) -> PyTree:
    """Averages that started at zero without their bias: ``m / (1 - decay^count)``.

    >>> import torch, gradtx as gx
    >>> gx.tree.bias_correction({"a": torch.full((1,), 0.5)}, 0.5, torch.tensor(1))
    {'a': tensor([1.])}
    """

    def corrected(m: Tensor) -> Tensor:
        steps = torch.as_tensor(count, dtype=torch.int64, device=m.device)
        return (m / one_minus_power(decay, steps, tree.accumulator_dtype(m.dtype))).to(m.dtype)

    return tree.map(corrected, moments)
