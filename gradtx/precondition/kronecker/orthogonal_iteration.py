"""Steps of orthogonal iteration on stacks of positive semidefinite matrices.

On the CPU without reflections, as ``gx.ops.cholesky_iteration`` says. How far q^T q is from I then
follows from the roundoff and the condition of L^T L with its diagonal scaled to ones: that is small
for nearly diagonal matrices whose diagonal descends, however far. All are products, most of them
triangular. Turning a basis takes 10/3 d^3 operations at their speed, where reflections and whole
products take 17/3 d^3 and are slower.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...core import decompositions
from ...core.random import make_key, signs
from ...ops.cholesky_iteration import LEAST, cholesky_iteration, cholesky_turn
from ...ops.matrix_powers import may_look
from ...ops.registry import has_kernel
from ...ops.symmetric_product import product, symmetric_product
from .stacks import contract

_SMALL = 64  # rows of matrices below which reflections are as fast
# Norms of the rows of Q^T Q - I, in roundoffs: of what is taken as it is, and of what is corrected.
# Reflections give 5 to 10.
_EXACT, _NEAR = 32.0, 1024.0
_PROBES = 16


class Rotation(NamedTuple):
    """Orthogonal matrices q = P L M^-T, or q = P L.

    Attributes:
        order: (n, d), the permutation P of what is multiplied, or ().
        first: (n, d, d), L.
        second: (n, d, d), M.
        divides: (n,) bool, whether there is an M.
    """

    order: Tensor | tuple[()]
    first: Tensor
    second: Tensor
    divides: Tensor


class Iterated(NamedTuple):
    """Attributes: ``factor`` q^T S q and ``basis`` Q q, (n, d, d), and ``rotation`` q."""

    factor: Tensor
    basis: Tensor
    rotation: Tensor | Rotation


def iterated(factor: Tensor, basis: Tensor, order: Tensor | tuple[()] = ()) -> Iterated:
    """One step: q is that of the decomposition q r of a factor, with a diagonal of r >= 0.

    Without reflections a multiple of I is added for what is singular, far less than what the
    largest entries are rounded by, or, where that is not enough, as much as sums of so many are.
    What still has no Cholesky decomposition, or none that is exact, is decomposed by reflections.

    Args:
        factor: (n, d, d), symmetric.
        basis: (n, d, d), in whose coordinates it is.
        order: (n, d), in which the columns of the basis come; () as they are.
    """
    factor, basis = factor.detach(), basis.detach()
    by_products = may_look(factor) and factor.dtype == torch.float32 and _has_kernels()
    if not by_products or factor.shape[-1] < _SMALL:
        return Iterated(*_by_reflections(factor, basis, order))
    done: dict[int, _Found] = {}
    largest, eps = factor.diagonal(dim1=1, dim2=2).amax(-1), torch.finfo(factor.dtype).eps
    for share in ((16 * eps) ** 2, math.sqrt(factor.shape[-1]) * eps):
        there = [i for i in range(len(factor)) if i not in done]
        if there:
            ridge = torch.where(largest == 0, 1.0, share * largest)
            which = _some(order, there) if isinstance(order, Tensor) else None
            for i, one in _by_products(
                _some(factor, there), _some(basis, there), which, ridge[there]
            ):
                done[there[i]] = one
    for i in range(len(factor)):
        if i not in done:
            part = slice(i, i + 1)
            own = order[part] if isinstance(order, Tensor) else ()
            new, turned, q = _by_reflections(factor[part], basis[part], own)
            first = picked(q, own, 1)[0] if isinstance(own, Tensor) else q[0]
            done[i] = _Found(new[0], turned[0], first, first, False)
    found = [done[i] for i in range(len(factor))]
    new, turned, first, second = (
        _stack(xs) for xs in zip(*(one[:4] for one in found), strict=True)
    )
    divides = torch.tensor([f.divides for f in found], dtype=torch.bool, device=factor.device)
    return Iterated(new, turned, Rotation(order, first, second, divides))


def rotate(x: Tensor, rotation: Tensor | Rotation, side: int) -> Tensor:
    """The coordinates of blocks (n, d_1, .. d_o) when the basis of a side has turned by q."""
    if isinstance(rotation, Tensor):
        return contract(x, rotation, side)
    if side == 0:
        return _times(x.reshape(*x.shape[:2], -1), rotation, left=True).reshape(x.shape)
    moved = x.movedim(side + 1, -1)
    y = _times(moved.reshape(x.shape[0], -1, moved.shape[-1]), rotation, left=False)
    return y.reshape(moved.shape).movedim(-1, side + 1)


def picked(x: Tensor, order: Tensor, dim: int) -> Tensor:
    """Blocks (n, d_1, .. d_o) with another order along a dimension, every block its own (n, d)."""
    if may_look(x):  # faster than gather
        each = zip(x, order, strict=True)
        return _stack([y.index_select(dim - 1, where) for y, where in each])
    shape = [len(x), *(-1 if k == dim else 1 for k in range(1, x.ndim))]
    return torch.gather(x, dim, order.reshape(shape).expand_as(x))


def qr(x: Tensor) -> tuple[Tensor, Tensor]:
    """Decompositions q r of (n, d, d) with a diagonal of r >= 0; constants for derivatives."""
    q, r = decompositions.qr(x.detach())
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    sign = torch.where(diagonal < 0, -torch.ones_like(diagonal), 1.0)
    return q * sign[..., None, :], r * sign[..., :, None]


class _Found(NamedTuple):
    """Of one matrix, (d, d): q^T S q, Q q, L, M, and whether there is an M."""

    factor: Tensor
    basis: Tensor
    first: Tensor
    second: Tensor
    divides: bool


def _by_products(
    s: Tensor, basis: Tensor, order: Tensor | None, ridge: Tensor
) -> list[tuple[int, _Found]]:
    """What is found of those that are exact enough, and their places."""
    new, first, second, least = cholesky_iteration(s, order, ridge)
    new.diagonal(dim1=1, dim2=2).sub_(ridge[:, None])
    there = [i for i, share in enumerate(least.tolist()) if share >= LEAST]
    if not there:
        return []
    order = None if order is None else _some(order, there)
    old, lower, other = (_some(x, there) for x in (basis, first, second))
    q = cholesky_turn(old, lower, other, order=order)
    found = []
    for i, y, off in zip(there, q, _departures(q), strict=True):
        if off <= _NEAR:
            y = y if off <= _EXACT else _corrected(y[None])[0]
            found.append((i, _Found(new[i], y, first[i], second[i], True)))
    return found


def _by_reflections(
    factor: Tensor, basis: Tensor, order: Tensor | tuple[()]
) -> tuple[Tensor, Tensor, Tensor]:
    if isinstance(order, Tensor):
        # F[:, order] = q r, so that q^T F q is r times q with its rows in that order. The columns
        # are rows, which are faster to pick.
        q, r = qr(picked(factor, order, 1).mT)
        new = symmetric_product(r, picked(q, order, 1))
    else:
        q, r = qr(factor)
        new = symmetric_product(r, q)
    return new, torch.bmm(basis, q), q


def _times(x: Tensor, rotation: Rotation, left: bool) -> Tensor:
    first, second, divides = rotation.first, rotation.second, rotation.divides.tolist()
    order = rotation.order if isinstance(rotation.order, Tensor) else None
    if all(divides):
        return cholesky_turn(x, first, second, left, order)
    done = []
    for i, y in enumerate(x.split(1)):
        part = slice(i, i + 1)
        q, which = first[part], None if order is None else order[part]
        if divides[i]:
            done.append(cholesky_turn(y, q, second[part], left, which))
            continue
        if which is not None:
            y = picked(y, which, 1 if left else 2)
        done.append(product(q.mT, y) if left else product(y, q))
    return torch.cat(done)


def _departures(q: Tensor) -> list[float]:
    """The largest norm of a row of q^T q - I of every matrix, in roundoffs, by random signs."""
    z = _probes(q.shape[-1], q.dtype)
    found: list[float] = (_off(q, z) / torch.finfo(q.dtype).eps).tolist()
    return found


@decompositions.one_thread
def _off(q: Tensor, z: Tensor) -> Tensor:
    off = torch.stack([y.mT @ (y @ z) - z for y in q])  # (n, d, probes)
    return off.square().mean(-1).amax(-1).sqrt()


def _corrected(q: Tensor) -> Tensor:
    """The orthogonal matrices that are next to those that nearly are."""
    off = symmetric_product(q.mT, q)
    off.diagonal(dim1=1, dim2=2).sub_(1.0)
    return product(q, off, q, alpha=-0.5)


@functools.lru_cache(maxsize=16)
def _probes(d: int, dtype: torch.dtype) -> Tensor:
    return signs(make_key(0), (d, _PROBES), dtype)


@functools.cache
def _has_kernels() -> bool:
    return has_kernel("cholesky_iteration", "CPU") and has_kernel("cholesky_turn", "CPU")


def _some(x: Tensor, where: list[int]) -> Tensor:
    return x if len(where) == len(x) else x[where]


def _stack(xs: Sequence[Tensor]) -> Tensor:
    return xs[0][None] if len(xs) == 1 else torch.stack(list(xs))
