"""LDAdam's step with power iteration, for all leaves of one shape at once.

Nothing of the size of the leaves is made besides A and the new error. With an
orthonormal P the aim B = rho P m' + (1 - rho) A is not needed itself: V = B^T P is
rho m'^T + (1 - rho) A^T P, and B V = rho P (m' V) + (1 - rho) A V.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Values, one_minus_power
from ..ops import add_product_, coordinates
from .orthonormal import orthonormal
from .projector import one_form
from .refresh import can_overwrite, either
from .svd import leading_vectors
from .view import View


class Moving(NamedTuple):
    """What moves along, stacked over leaves.

    Attributes:
        step: (batch, 1, 1), updates done before.
        basis: P, (batch, size, rank).
        mu: first moment, (batch, *coordinates), as the leaves lie.
        nu: second moment.
    """

    step: Tensor
    basis: Tensor
    mu: Tensor
    nu: Tensor


def sweep(
    total: Tensor, s: Moving, view: View, h: Values, feedback: bool
) -> tuple[Tensor, Tensor | None, Moving]:
    """One step.

    Args:
        total: A, the update and what has been left out so far, (batch, rows, columns). With
            ``feedback`` its memory may become that of the error.
        s: the state before.
        view: the leaves' geometry.
        h: hyperparameters b1, b2, eps and rho.
        feedback: whether the new error is wanted.

    Returns:
        The update's coordinates in the new basis, the new error or None, the state after.
    """
    left, dtype = view.axis == 0, total.dtype
    p, m, v = s.basis.to(dtype), s.mu.to(dtype), s.nu.to(dtype)
    # There is nothing to correct in the first step.
    before = torch.clamp(s.step, min=1)
    c1, c2 = one_minus_power(h.b1, before, dtype), one_minus_power(h.b2, before, dtype)
    q = _basis(total.detach(), s._replace(basis=p.detach(), mu=m.detach()), view, h.rho, c1)
    a = _coordinates(total, q, left)
    r = q.mT @ p
    turned = _coordinates(m, r.mT, left)
    # v moves through its variance around the corrected mean, all of it times c2.
    ratio = c2 / (c1 * c1)
    spread = torch.addcmul(v, m, ratio * m, value=-1)
    spread = _coordinates(spread, (r * r).mT, left)
    v = torch.addcmul(spread, turned, ratio * turned).abs()
    mu = torch.lerp(turned, a, 1 - h.b1)
    nu = torch.lerp(v, a * a, 1 - h.b2)
    error = None
    if feedback:  # A - Q a + b1 / (1 - b1) (P m - Q R m)
        bases = torch.cat([h.b1 * p, -q], -1) / (1 - h.b1)
        if left:
            error = _plus(total, bases, torch.cat([m, mu], -2))
        else:
            error = _plus(total, torch.cat([m, mu], -1), bases.mT)
    c1, c2 = one_minus_power(h.b1, s.step + 1, dtype), one_minus_power(h.b2, s.step + 1, dtype)
    out = mu / torch.addcmul(h.eps * c1, torch.sqrt(nu), c1 * torch.rsqrt(c2))
    return out, error, Moving(s.step + 1, q, mu, nu)


def _plus(total: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``total + x @ y``, in the memory of ``total`` where nothing else can see it."""
    if not all(can_overwrite(z) for z in (total, x, y)):
        return torch.baddbmm(total, x, y)
    if len(total) == 1:
        add_product_(total[0], x[0], y[0])
        return total
    return total.baddbmm_(x, y)


def _coordinates(x: Tensor, q: Tensor, left: bool) -> Tensor:
    """``Q^T X`` or ``X Q`` of a batch."""
    if len(x) == 1:
        return coordinates(x[0], q[0], left)[None]
    return q.mT @ x if left else x @ q


def _basis(total: Tensor, s: Moving, view: View, rho: Any, c1: Tensor) -> Tensor:
    """The next basis: one sweep of power iteration; singular vectors at the first step."""
    left, first = view.axis == 0, s.step == 0
    x = total if left else total.mT

    def swept() -> Tensor:
        # B and V over 1 - rho: what the columns of B V span stays.
        weight = rho / ((1 - rho) * c1)
        along = torch.addcmul(_coordinates(total, s.basis, left), s.mu, weight)
        v = along.mT if left else along
        xv, mv = (_coordinates(z, v, not left) for z in (total, s.mu))
        if not left:
            xv, mv = xv.mT, mv.mT
        y = torch.baddbmm(xv, s.basis, weight * mv)
        # Anything in A that is not finite shows up here.
        good = torch.isfinite(y.abs().amax((-2, -1), keepdim=True))
        return torch.where(good, orthonormal(torch.where(good, y, 0.0)), s.basis)

    def singular() -> Tensor:
        return torch.stack([leading_vectors(one, view.rank) for one in x])

    def either_way() -> Tensor:
        return torch.where(first, singular(), swept())

    new = either(~first.any(), swept, lambda: either(first.all(), singular, either_way))
    return one_form(new)
