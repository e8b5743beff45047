"""LDAdam's step with power iteration, for all leaves of one shape at once.

Nothing of the size of the leaves is made besides X = A + w P m, which is what has come in so far
without what has been lifted, see ``ScaleByLdadamState``. With an orthonormal P neither A nor the
aim B = rho P m' + (1 - rho) A is needed itself: they are X up to multiples of P m, so that
B^T P and B V are X^T P and X V up to multiples of m^T and P (m V).
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
        gain: w, (batch, 1, 1); 0 without error feedback, where X is A.
    """

    step: Tensor
    basis: Tensor
    mu: Tensor
    nu: Tensor
    gain: Tensor


def sweep(
    x: Tensor, s: Moving, view: View, h: Values, feedback: bool
) -> tuple[Tensor, Tensor | None, Moving]:
    """One step.

    Args:
        x: X, (batch, rows, columns). With ``feedback`` its memory may become that of the sum.
        s: the state before.
        view: the leaves' geometry.
        h: hyperparameters b1, b2, eps and rho.
        feedback: whether the new sum is wanted.

    Returns:
        The update's coordinates in the new basis, the new sum or None, the state after.
    """
    left, dtype = view.axis == 0, x.dtype
    p, m, v, w = (z.to(dtype) for z in (s.basis, s.mu, s.nu, s.gain))
    # There is nothing to correct in the first step.
    before = torch.clamp(s.step, min=1)
    c1, c2 = one_minus_power(h.b1, before, dtype), one_minus_power(h.b2, before, dtype)
    old = s._replace(basis=p.detach(), mu=m.detach(), gain=w.detach())
    q = _basis(x.detach(), old, view, h.rho, c1)
    r = q.mT @ p
    turned = _coordinates(m, r.mT, left)
    a = _coordinates(x, q, left)
    if feedback:
        a = torch.addcmul(a, turned, w, value=-1)
    # v moves through its variance around the corrected mean, all of it times c2.
    ratio = c2 / (c1 * c1)
    spread = torch.addcmul(v, m, ratio * m, value=-1)
    spread = _coordinates(spread, (r * r).mT, left)
    v = torch.addcmul(spread, turned, ratio * turned).abs()
    mu = torch.lerp(turned, a, 1 - h.b1)
    nu = torch.lerp(v, a * a, 1 - h.b2)
    total = None
    if feedback:  # X + b1 / (1 - b1) P m - w P m
        scaled = (h.b1 / (1 - h.b1) - w) * p
        total = _plus(x, scaled, m) if left else _plus(x, m, scaled.mT)
        w = torch.zeros_like(w) + 1 / (1 - h.b1)
    c1, c2 = one_minus_power(h.b1, s.step + 1, dtype), one_minus_power(h.b2, s.step + 1, dtype)
    out = mu / torch.addcmul(h.eps * c1, torch.sqrt(nu), c1 * torch.rsqrt(c2))
    return out, total, Moving(s.step + 1, q, mu, nu, w)


def _plus(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """``x + y @ z``, in the memory of ``x`` where nothing else can see it."""
    if not all(can_overwrite(each) for each in (x, y, z)):
        return torch.baddbmm(x, y, z)
    if len(x) == 1:
        add_product_(x[0], y[0], z[0])
        return x
    return x.baddbmm_(y, z)


def _coordinates(x: Tensor, q: Tensor, left: bool) -> Tensor:
    """``Q^T X`` or ``X Q`` of a batch."""
    if len(x) == 1:
        return coordinates(x[0], q[0], left)[None]
    return q.mT @ x if left else x @ q


def _basis(x: Tensor, s: Moving, view: View, rho: Any, c1: Tensor) -> Tensor:
    """The next basis: one sweep of power iteration; singular vectors at the first step."""
    left, first = view.axis == 0, s.step == 0

    def swept() -> Tensor:
        # B and V over 1 - rho: what the columns of B V span stays. Then less what X has too much.
        weight = rho / ((1 - rho) * c1) - s.gain
        along = torch.addcmul(_coordinates(x, s.basis, left), s.mu, weight)
        v = along.mT if left else along
        xv, mv = (_coordinates(z, v, not left) for z in (x, s.mu))
        if not left:
            xv, mv = xv.mT, mv.mT
        y = torch.baddbmm(xv, s.basis, weight * mv)
        # Anything in X that is not finite shows up here.
        good = torch.isfinite(y.abs().amax((-2, -1), keepdim=True))
        return torch.where(good, orthonormal(torch.where(good, y, 0.0)), s.basis)

    def singular() -> Tensor:
        return torch.stack([leading_vectors(one, view.rank) for one in (x if left else x.mT)])

    def either_way() -> Tensor:
        return torch.where(first, singular(), swept())

    new = either(~first.any(), swept, lambda: either(first.all(), singular, either_way))
    return one_form(new)
