"""Curvature of a loss: products with the Hessian, its largest eigenvalue, its trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.func import grad, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..core import tree
from ..core.random import Seed, fold_in, make_key, normal, signs
from ..core.tree import PyTree

Loss: TypeAlias = Callable[[PyTree], Tensor]


_CLOSE = 1e-3  # a quotient this near the length of the product is an eigenvalue


class Trace(NamedTuple):
    """Attributes: ``value``, the estimate; ``stderr``, its standard error."""

    value: float
    stderr: float


def hessian_product(loss_fn: Loss, params: PyTree, v: PyTree) -> PyTree:
    """The Hessian of a loss times a tree, by reverse over reverse differentiation.

    Args:
        loss_fn: parameters -> 0-d loss.
        params: a tree of floating tensors without None.
        v: a tree like it.

    >>> import torch, gradtx as gx
    >>> gx.solutions.hessian_product(lambda p: p["x"].pow(3).sum(), {"x": torch.ones(2)}, {
    ...     "x": torch.tensor([1.0, 0.0])})
    {'x': tensor([6., 0.])}
    """
    # Of the kernels of attention only the composed one has second derivatives on every device.
    with sdpa_kernel(SDPBackend.MATH):
        return vjp(grad(loss_fn), params)[1](v)[0]


def sharpness(
    loss_fn: Loss, params: PyTree, iterations: int = 50, tolerance: float = 1e-3, seed: Seed = 0
) -> float:
    """The largest eigenvalue of the Hessian, by power iteration.

    v <- H v / |H v| and v^T H v. Where that is short of |H v|, so that an eigenvalue of about the
    largest magnitude is negative, a second iteration with H shifted by |H v| finds the largest one.

    Args:
        loss_fn: parameters -> 0-d loss, of a fixed batch.
        params: a tree of floating tensors.
        iterations: the most products with the Hessian, twice as many with a shift, >= 1.
        tolerance: ends when the estimate changes by less than this share, >= 0.
        seed: of the first vector.

    Raises:
        ValueError: fewer than one iteration, or a negative tolerance.

    >>> import torch, gradtx as gx
    >>> def loss(p): return 0.5 * (torch.tensor([1.0, 5.0, -7.0]) * p["x"].square()).sum()
    >>> round(gx.solutions.sharpness(loss, {"x": torch.ones(3)}, 200, 1e-7), 3)
    5.0
    """
    if iterations < 1 or not tolerance >= 0:
        raise ValueError(
            "sharpness: iterations must be >= 1 and tolerance >= 0, got "
            f"{iterations} and {tolerance}"
        )

    def product(v: PyTree) -> PyTree:
        return hessian_product(loss_fn, params, v)

    start = _random(params, seed)
    largest, radius = _power_iteration(product, start, iterations, tolerance, shift=0.0)
    if largest >= (1.0 - max(tolerance, _CLOSE)) * radius:
        return largest
    above, _ = _power_iteration(product, start, iterations, tolerance, shift=radius)
    return max(largest, above - radius)


def hessian_trace(loss_fn: Loss, params: PyTree, samples: int = 16, seed: Seed = 0) -> Trace:
    """The trace of the Hessian as the mean of v^T H v over random signs v.

    Args:
        loss_fn: parameters -> 0-d loss, of a fixed batch.
        params: a tree of floating tensors.
        samples: products with the Hessian, >= 2.
        seed: of the signs.

    Raises:
        ValueError: fewer than two samples.

    Source: Hutchinson, 1989.

    >>> import torch, gradtx as gx
    >>> gx.solutions.hessian_trace(lambda p: p["x"].square().sum(), {"x": torch.ones(3)}, 2)
    Trace(value=6.0, stderr=0.0)
    """
    if samples < 2:
        raise ValueError(f"hessian_trace: samples must be >= 2, got {samples}")
    found = []
    for i in range(samples):
        v = _signs(params, seed, i)
        found.append(tree.vdot(v, hessian_product(loss_fn, params, v)).double())
    values = torch.stack(found)
    return Trace(float(values.mean()), float(values.std() / math.sqrt(samples)))


def _power_iteration(
    product: Callable[[PyTree], PyTree],
    v: PyTree,
    iterations: int,
    tolerance: float,
    shift: float,
) -> tuple[float, float]:
    """Rayleigh quotient and length of the product at the end; the matrix plus ``shift``."""
    value = length = math.nan
    for _ in range(iterations):
        moved = tree.map(lambda hv, x: hv + shift * x, product(v), v)
        last, value = value, float(tree.vdot(v, moved))
        size = tree.global_norm(moved)
        length = float(size)
        if not length > 0 or abs(value - last) < tolerance * abs(value):
            break
        v = tree.map(lambda x, size=size: x / size.to(x.dtype), moved)
    return value, length


def _random(params: PyTree, seed: Seed) -> PyTree:
    """Normal numbers of length one."""
    v = tree.map_with_name(
        lambda name, p: normal(fold_in(make_key(seed, device=p.device), name), p.shape).to(p.dtype),
        params,
    )
    size = tree.global_norm(v)
    return tree.map(lambda x: x / size.to(x.dtype), v)


def _signs(params: PyTree, seed: Seed, sample: int) -> PyTree:
    def draw(name: str, p: Tensor) -> Tensor:
        return signs(fold_in(make_key(seed, sample, device=p.device), name), p.shape, p.dtype)

    return tree.map_with_name(draw, params)
