"""Rotations that take a matrix towards a symmetric one."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.checks import can_read
from ...core.roots import divide
from .norms import norm

NEAR = 1e-3
STEPS = 10


def _rotated(q: Tensor, how: str, order: int) -> tuple[list[Tensor], list[Tensor]]:
    """R Q, R R Q, ... and their traces (batch, 1, 1), R = (Q^T - Q) / |Q^T - Q|_2."""
    skew = q.mT - q  # (batch, d, d)
    r = divide(skew, norm(skew, how)[:, None, None])
    products = [r @ q]
    for _ in range(order - 1):
        products.append(r @ products[-1])
    return products, [x.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] for x in products]


def second_order(q: Tensor, how: str) -> Tensor:
    """One step: Q <- Q + a (R Q + a R R Q / 2), a at most 1/8.

    Args:
        q: (batch, n, n).
        how: the norm of R, see ``norms``.
    """
    (rq, rrq), (t1, t2) = _rotated(q, how, 2)
    most = torch.full_like(t1, 1 / 8)
    inside = t2 < 0
    a = torch.where(inside, torch.minimum(most, -t1 / torch.where(inside, t2, -1.0)), most)
    return q + a * (rq + a / 2 * rrq)


def third_order(q: Tensor, how: str) -> Tensor:
    """One step: Q <- Q + a (R Q + a/2 (R R Q + a/4 R R R Q)), a at most 1/3.

    Args:
        q: (batch, n, n).
        how: the norm of R, see ``norms``.
    """
    (rq, rrq, rrrq), (t1, t2, t3) = _rotated(q, how, 3)
    ascends = (t1 > 0) & (t3 < 0)
    safe1, safe3 = torch.where(ascends, t1, 1.0), torch.where(ascends, t3, -1.0)
    a = (-t2 - torch.sqrt(t2 * t2 - 1.5 * safe1 * safe3)) / (0.75 * safe3)
    a = torch.where(ascends, torch.clamp(a, max=1 / 3), 0.0)
    return q + a * (rq + a / 2 * (rrq + a / 4 * rrrq))


def until_symmetric(q: Tensor, how: str) -> Tensor:
    """Third order steps until no entry of Q^T - Q is NEAR that of Q, at most ten.

    Args:
        q: (batch, n, n); each stops by itself.
        how: the norm of R, see ``norms``.
    """
    for _ in range(STEPS):
        off = (q.mT - q).abs().amax((-2, -1), keepdim=True)
        done = off < NEAR * q.abs().amax((-2, -1), keepdim=True)
        if q.device.type == "cpu" and can_read(done) and bool(done.all()):
            break
        q = torch.where(done, q, third_order(q, how))
    return q
