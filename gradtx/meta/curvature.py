"""Products with second derivatives and their diagonals, without the matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.plain import plain
from ..core.random import Seed, fold_in, make_key, signs
from ..core.tree import PyTree
from .leaves import floats_like, jvp, of_floats, split, vjp

Loss = Callable[[PyTree], Tensor]


def hvp(f: Loss, params: PyTree, v: PyTree) -> PyTree:
    """Product of the Hessian of ``f`` with a tree, forward over reverse.

    Args:
        f: ``params -> 0-d tensor``.
        params: tree of tensors.
        v: tree like the parameters.

    Raises:
        TreeMismatchError: ``v`` has another structure.

    >>> import torch, gradtx as gx
    >>> gx.meta.hvp(lambda p: (p["w"] ** 3).sum(), {"w": torch.ones(2)}, {"w": torch.ones(2)})
    {'w': tensor([6., 6.])}
    """
    along = tuple(floats_like("hvp", "vector", params, v))
    return _rebuilt(params, _hvp(f, params)(along))


def _hvp(f: Loss, params: PyTree) -> Callable[[Any], Any]:
    flat, floats = of_floats(f, params)
    slope = torch.func.grad(flat, argnums=tuple(range(len(floats))))
    return lambda along: jvp(slope, tuple(floats), tuple(along))[1]


def ggn_vp(model: Callable[[PyTree], PyTree], loss: Loss, params: PyTree, v: PyTree) -> PyTree:
    """Product of the generalized Gauss-Newton matrix ``J^T H J`` with a tree.

    J is the derivative of the model's outputs, H the Hessian of the loss by the outputs.

    Args:
        model: ``params -> outputs``, a tree of tensors.
        loss: ``outputs -> 0-d tensor``, convex.
        params: tree of tensors.
        v: tree like the parameters.

    Raises:
        TreeMismatchError: ``v`` has another structure.

    >>> import torch, gradtx as gx
    >>> x = torch.tensor([1.0, 2.0])
    >>> gx.meta.ggn_vp(lambda w: w * x, lambda out: (out**2).sum() / 2, torch.tensor(3.0),
    ...                torch.tensor(1.0))
    tensor(5.)
    """
    along = tuple(floats_like("ggn_vp", "vector", params, v))
    flat, floats = of_floats(model, params)
    shape: list[Any] = []

    def outputs(*xs: Tensor) -> tuple[Tensor, ...]:
        out = split(flat(*xs))
        shape[:] = [lambda new: out.rebuild(new, out.others)]
        return tuple(out.floats)

    outs, moved = jvp(outputs, tuple(floats), along)
    slope = torch.func.grad(lambda *o: loss(shape[0](o)), argnums=tuple(range(len(outs))))
    curved = jvp(slope, tuple(outs), tuple(moved))[1]
    return _rebuilt(params, vjp(outputs, *floats)[1](tuple(curved)))


def hessian_diag(f: Loss, params: PyTree) -> PyTree:
    """The diagonal of the Hessian, exactly: a Hessian-vector product for every entry.

    For estimates at the cost of a few products see ``hutchinson``.

    Args:
        f: ``params -> 0-d tensor``.
        params: tree of tensors.

    >>> import torch, gradtx as gx
    >>> gx.meta.hessian_diag(lambda w: (w**3).sum(), torch.tensor([1.0, 2.0]))
    tensor([ 6., 12.])
    """
    product = _hvp(f, params)
    floats = split(params).floats
    out = []
    for i, x in enumerate(floats):

        def entry(unit: Tensor, i: int = i) -> Tensor:
            along = [torch.zeros_like(y) for y in floats]
            along[i] = unit
            return (product(along)[i] * unit).sum()

        basis = torch.eye(x.numel(), dtype=x.dtype, device=x.device).reshape(-1, *x.shape)
        out.append(torch.func.vmap(entry)(basis).reshape(x.shape))
    return _rebuilt(params, out)


def hutchinson(f: Loss, params: PyTree, probes: int = 1, seed: Seed = 0) -> PyTree:
    """An unbiased estimate of the Hessian's diagonal: the mean of ``z * (H z)`` over random signs.

    Args:
        f: ``params -> 0-d tensor``.
        params: tree of tensors.
        probes: number of products, >= 1.
        seed: of the signs, an integer or a 0-d integer tensor.

    Raises:
        ValueError: ``probes`` < 1.

    Source: arXiv 2006.00719.

    >>> import torch, gradtx as gx
    >>> gx.meta.hutchinson(lambda w: (w**3).sum(), torch.tensor([1.0, 2.0]))  # diagonal: exact
    tensor([ 6., 12.])
    """
    probes = plain(probes)
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise ValueError(f"hutchinson: probes must be an integer >= 1, got {probes!r}")
    product, floats = _hvp(f, params), split(params).floats
    total = [torch.zeros_like(x) for x in floats]
    for k in range(probes):
        keys = [fold_in(make_key(seed, k, x.device), i) for i, x in enumerate(floats)]
        zs = [signs(key, x.shape, x.dtype) for key, x in zip(keys, floats, strict=True)]
        total = [t + z * hz / probes for t, z, hz in zip(total, zs, product(zs), strict=True)]
    return _rebuilt(params, total)


def fisher_diag(loss: Callable[..., Tensor], params: PyTree, *batch: PyTree) -> PyTree:
    """The diagonal of the empirical Fisher matrix: mean squares of per-example gradients.

    Args:
        loss: ``(params, *example) -> 0-d tensor``, minus the log-likelihood of one example.
        params: tree of tensors.
        batch: trees whose leaves have the examples in their first dimension.

    >>> import torch, gradtx as gx
    >>> gx.meta.fisher_diag(lambda w, x: w * x, torch.tensor(1.0), torch.tensor([1.0, 3.0]))
    tensor(5.)
    """
    parts, spec = tree.flatten(batch)

    def slope(*example: Any) -> Any:
        flat, floats = of_floats(lambda p: loss(p, *spec.unflatten(list(example))), params)
        return torch.func.grad(flat, argnums=tuple(range(len(floats))))(*floats)

    slopes = torch.func.vmap(slope)(*parts)
    return _rebuilt(params, [g.square().mean(0) for g in slopes])


def _rebuilt(params: PyTree, floats: Any) -> PyTree:
    """A tree like the parameters; what is no floating-point tensor is None."""
    leaves, spec = tree.flatten(params)
    given = iter(floats)
    return spec.unflatten(
        [next(given) if isinstance(x, Tensor) and x.is_floating_point() else None for x in leaves]
    )
