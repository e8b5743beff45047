"""The dominant eigenvalue of a function of trees, and least squares with nonnegative unknowns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..core import tree, tree_math
from ..core.checks import all_done
from ..core.random import Seed, make_key, uniform
from ..core.roots import divide
from ..core.tree import PyTree


def power_iteration(
    matrix: Tensor | Callable[[PyTree], PyTree],
    v0: PyTree = None,
    iterations: int = 100,
    tolerance: float = 1e-6,
    seed: Seed = 0,
) -> tuple[Tensor, PyTree]:
    """The eigenvalue of largest magnitude and its eigenvector.

    v <- A v / ||A v||, until ||A v - l v|| <= tolerance |l| with l = <v, A v>. Nothing changes any
    more once it holds; where values can be read at no cost the loop then ends.

    Args:
        matrix: (n, n), or a linear function of a tree.
        v0: where it starts, a tree; needed for a function.
        iterations: products at most, >= 1.
        tolerance: relative error of the eigenvector's equation, >= 0.
        seed: of the start where there is no ``v0``.

    Returns:
        The eigenvalue (0-d) and the vector, of norm one.

    Raises:
        ValueError: a function without ``v0``, a matrix that is not square, a value out of range.

    >>> import torch, gradtx as gx
    >>> value, _ = gx.meta.power_iteration(torch.tensor([[2.0, 0.0], [0.0, -5.0]]))
    >>> value
    tensor(-5.)
    """
    if iterations < 1 or not tolerance >= 0:
        raise ValueError(
            "power_iteration: iterations must be >= 1 and tolerance >= 0, got "
            f"{iterations} and {tolerance}"
        )
    if isinstance(matrix, Tensor):
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(
                f"power_iteration: the matrix must be square, got {tuple(matrix.shape)}"
            )
        if v0 is None:
            v0 = 2 * uniform(make_key(seed, device=matrix.device), (len(matrix),), matrix.dtype) - 1
        product: Callable[[PyTree], PyTree] = matrix.__matmul__
    else:
        product = matrix
    if v0 is None:
        raise ValueError("power_iteration: a function needs v0, a tree that it takes")
    v = _normalized(v0)
    image = product(v)
    value = tree.vdot(v, image)
    done = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(iterations - 1):
        off = tree_math.norm(tree_math.add_scale(image, -value, v))
        done = done | (off <= tolerance * value.abs())
        if all_done(done):
            break
        v = tree.where(done, v, _normalized(image))
        image = tree.where(done, image, product(v))
        value = tree.vdot(v, image)
    return value, _normalized(image)


def _normalized(v: PyTree) -> PyTree:
    length = tree_math.norm(v)
    return tree.map(lambda x: divide(x, length.to(x)), v)


def nnls(a: Tensor, b: Tensor, iterations: int, bound: float | Tensor | None = None) -> Tensor:
    """The least ``||a x - b||`` over ``x >= 0``, by projected gradients with momentum.

    Args:
        a: (m, n).
        b: (m,), or (m, k) for k problems.
        iterations: gradients, >= 1.
        bound: at least the largest eigenvalue of ``a.T a``; None for a bound from its entries.

    Returns:
        x, (n,) or (n, k).

    Raises:
        ValueError: shapes that do not fit, or ``iterations`` < 1.

    Source: Polyak, Contemporary Mathematics 636 (2015), the fast projected gradient method.

    >>> import torch, gradtx as gx
    >>> a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([3.0, -1.0])
    >>> gx.meta.nnls(a, b, 100).round(decimals=3)
    tensor([3., 0.])
    """
    if a.ndim != 2 or b.ndim not in (1, 2) or a.shape[0] != b.shape[0]:
        raise ValueError(
            "nnls: a must be (m, n) and b (m,) or (m, k), "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if iterations < 1:
        raise ValueError(f"nnls: iterations must be >= 1, got {iterations}")
    gram, right = a.T @ a, a.T @ b  # (n, n), (n,) or (n, k)
    if bound is None:  # no eigenvalue exceeds the largest sum of a row, nor the Frobenius norm
        bound = torch.minimum(gram.abs().sum(1).amax(), torch.linalg.matrix_norm(gram))
    size = torch.as_tensor(bound, dtype=gram.dtype, device=gram.device)
    size = torch.where(size == 0, 1.0, size)
    x = ahead = torch.zeros_like(right)
    weight = 0.0
    for _ in range(iterations):
        following = (1 + (1 + 4 * weight**2) ** 0.5) / 2
        new = torch.clamp(ahead - (gram @ ahead - right) / size, min=0)
        ahead = new + (weight - 1) / following * (new - x)
        x, weight = new, following
    return x
