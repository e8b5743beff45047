"""The operators ``gradtx::ldadam_columns`` and ``gradtx::ldadam_moments_``: LDAdam on one matrix.

    ldadam_columns(Tensor x, Tensor basis, Tensor m, Tensor weight, bool left) -> Tensor
    ldadam_moments_(Tensor x, Tensor basis, Tensor old, Tensor(a!) m, Tensor(b!) v,
                    Tensor weights, bool left) -> Tensor

All tensors are float32, on one device, and apart from what is overwritten. The first operator is
one sweep of power iteration: columns that span the next basis. The second moves the moments into
it, with Adam's step there, and gives the update's coordinates. Both are products of a large matrix
with thin ones, in which the order of the sums is the backend's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradtx.core.roots import root
from gradtx.ops.registry import operator, require_apart, require_together

__all__ = ["columns", "ldadam_columns", "ldadam_moments_", "moments"]


def columns(x: Tensor, basis: Tensor, m: Tensor, weight: Tensor, left: bool) -> Tensor:
    """``C (C^T P)`` for C = X + weight P m, with an orthonormal P.

    Args:
        x: X, (..., rows, columns).
        basis: P, (..., size, rank), of the columns of X if left, else of its rows.
        m: coordinates in it, (..., rank, columns) if left, else (..., rows, rank).
        weight: (...).
        left: which side of X the basis is one of.

    >>> import torch
    >>> from gradtx.ops.ldadam import columns
    >>> x, m = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.0]])
    >>> columns(x, torch.tensor([[1.0], [0.0]]), m, torch.tensor(1.0), True)
    tensor([[13.],
            [18.]])
    """
    weight = weight[..., None, None]
    if not left:
        x, m = x.mT, m.mT
    v = torch.addcmul(basis.mT @ x, m, weight).mT  # (.., columns, rank)
    return x @ v + basis @ (weight * (m @ v))


def moments(
    x: Tensor, basis: Tensor, old: Tensor, m: Tensor, v: Tensor, weights: Tensor, left: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The update's coordinates and both moments.

    With t = R m for R = Q^T P and a = Q^T X - gain t, v moves through its variance:
    v <- |(R o R) (v - ratio m^2) + ratio t^2|; then m <- t + take1 (a - t),
    v <- v + take2 (a^2 - v) and m / (floor + slope sqrt v).

    Args:
        x: X, (..., rows, columns).
        basis: Q, (..., size, rank), of the columns of X if left, else of its rows.
        old: P, alike.
        m: first moment, (..., rank, columns) if left, else (..., rows, rank).
        v: second moment.
        weights: gain, ratio, take1, take2, floor and slope, (..., 6).
        left: which side of X these are bases of.

    >>> import torch
    >>> from gradtx.ops.ldadam import moments
    >>> weights = torch.tensor([0.0, 1.0, 0.5, 0.75, 0.0, 1.0])
    >>> x, m, v = torch.tensor([[3.0]]), torch.tensor([[1.0]]), torch.tensor([[1.0]])
    >>> moments(x, torch.eye(1), torch.eye(1), m, v, weights, left=True)
    (tensor([[0.7559]]), tensor([[2.]]), tensor([[7.]]))
    """
    gain, ratio, take1, take2, floor, slope = weights[..., None, None].unbind(-3)
    r = basis.mT @ old  # (.., rank, rank)

    def turned_by(r: Tensor, x: Tensor) -> Tensor:
        return r @ x if left else x @ r.mT

    turned = turned_by(r, m)  # like m, (.., rank, columns) or (.., rows, rank)
    a = torch.addcmul(basis.mT @ x if left else x @ basis, turned, -gain)
    spread = turned_by(r * r, torch.addcmul(v, m, -ratio * m))
    moved = torch.addcmul(spread, turned, ratio * turned).abs()
    mu, nu = torch.lerp(turned, a, take1), torch.lerp(moved, a * a, take2)
    return mu / torch.addcmul(floor, root(nu), slope), mu, nu


def _check(name: str, x: Tensor, basis: Tensor, m: Tensor, left: bool, *others: Tensor) -> None:
    if x.ndim != 2 or basis.ndim != 2 or basis.shape[0] != x.shape[0 if left else 1]:
        raise ValueError(
            f"{name}: a matrix of shape {tuple(x.shape)} needs a basis of its "
            f"{'columns' if left else 'rows'}, got {tuple(basis.shape)}"
        )
    rank = basis.shape[1]
    wanted = (rank, x.shape[1]) if left else (x.shape[0], rank)
    if m.shape != wanted:
        raise ValueError(f"{name}: moments must have shape {wanted}, got {tuple(m.shape)}")
    for z in (x, basis, m, *others):
        if z.dtype != torch.float32:
            raise ValueError(f"{name}: all tensors must be float32, got {z.dtype}")
    require_together(name, x, basis, m, *others)


def _check_columns(x: Tensor, basis: Tensor, m: Tensor, weight: Tensor, left: bool) -> None:
    _check("ldadam_columns", x, basis, m, left, weight)
    if weight.ndim:
        raise ValueError(f"ldadam_columns: weight must be 0-d, got {tuple(weight.shape)}")


def _check_moments(
    x: Tensor, basis: Tensor, old: Tensor, m: Tensor, v: Tensor, weights: Tensor, left: bool
) -> None:
    name = "ldadam_moments_"
    _check(name, x, basis, m, left, old, v, weights)
    if old.shape != basis.shape or v.shape != m.shape:
        raise ValueError(
            f"{name}: both bases and both moments must have one shape, got {tuple(basis.shape)} "
            f"and {tuple(old.shape)}, {tuple(m.shape)} and {tuple(v.shape)}"
        )
    if not m.is_contiguous() or not v.is_contiguous():
        raise ValueError(f"{name}: moments must be contiguous")
    if weights.shape != (6,) or not weights.is_contiguous():
        raise ValueError(f"{name}: weights must be six contiguous numbers")


def _fake_columns(x: Tensor, basis: Tensor, m: Tensor, weight: Tensor, left: bool) -> Tensor:
    _check_columns(x, basis, m, weight, left)
    return basis.new_empty(basis.shape)


@operator(
    "ldadam_columns(Tensor x, Tensor basis, Tensor m, Tensor weight, bool left) -> Tensor",
    fake=_fake_columns,
)
def ldadam_columns(x: Tensor, basis: Tensor, m: Tensor, weight: Tensor, left: bool) -> Tensor:
    """``columns`` of one matrix."""
    _check_columns(x, basis, m, weight, left)
    return columns(x, basis, m, weight, left).contiguous()


def _fake_moments(
    x: Tensor, basis: Tensor, old: Tensor, m: Tensor, v: Tensor, weights: Tensor, left: bool
) -> Tensor:
    _check_moments(x, basis, old, m, v, weights, left)
    return m.new_empty(m.shape)


@operator(
    "ldadam_moments_(Tensor x, Tensor basis, Tensor old, Tensor(a!) m, Tensor(b!) v, "
    "Tensor weights, bool left) -> Tensor",
    fake=_fake_moments,
    mutates=True,
)
def ldadam_moments_(
    x: Tensor, basis: Tensor, old: Tensor, m: Tensor, v: Tensor, weights: Tensor, left: bool
) -> Tensor:
    """``moments`` of one matrix, in the memory of the old ones; returns the coordinates."""
    _check_moments(x, basis, old, m, v, weights, left)
    require_apart("ldadam_moments_", m, x, basis, old, v, weights)
    require_apart("ldadam_moments_", v, x, basis, old, weights)
    out, mu, nu = moments(x, basis, old, m, v, weights, left)
    m.copy_(mu)
    v.copy_(nu)
    return out.contiguous()
