"""LDAdam's step with power iteration, for all leaves of one shape at once.

Nothing of the size of the leaves is made besides X = A + w P m, which is the new sum with what has
been left out, see ``ScaleByLdadamState``. With an orthonormal P neither A nor the aim
B = rho P m' + (1 - rho) A is needed itself: they are X up to multiples of P m, so that B^T P and
B V are X^T P and X V up to multiples of m^T and P (m V).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Values, one_minus_power
from ..core.roles import FirstMoment, SecondMoment
from ..core.roots import nonzero
from ..core.state import advance
from ..ops import add_product_, ldadam_columns, ldadam_moments_
from ..ops.coordinates import is_plain
from ..ops.ldadam import columns, moments
from .dense import stacked
from .orthonormal import orthonormal_or
from .projector import one_form
from .refresh import can_overwrite, can_read, either
from .svd import leading_vectors
from .view import View


class Moving(NamedTuple):
    """What moves along, stacked over leaves.

    Attributes:
        basis: P, (batch, size, rank).
        mu: first moment, (batch, *coordinates), as the leaves lie.
        nu: second moment.
    """

    basis: Tensor
    mu: FirstMoment
    nu: SecondMoment


class Weights(NamedTuple):
    """Numbers of a step, for every leaf.

    Attributes:
        first: (leaves,), whether it is the leaf's first step; None if it is no leaf's.
        shift: (leaves,), how much of P m the sum lacks to be X; 0 without feedback.
        aim: (leaves,), how much P m counts besides X in B / (1 - rho).
        moments: (leaves, 6), the weights of ``ops.ldadam.moments``.
    """

    first: Tensor | None
    shift: Tensor
    aim: Tensor
    moments: Tensor

    def at(self, leaves: list[int]) -> Weights:
        """Those of some leaves."""

        def some(x: Tensor) -> Tensor:
            return stacked([x[i] for i in leaves])

        first = None if self.first is None else some(self.first)
        return Weights(first, some(self.shift), some(self.aim), some(self.moments))


def weights(step: Tensor, gain: Tensor, h: Values, feedback: bool, dtype: torch.dtype) -> Weights:
    """The numbers of a step.

    Args:
        step: updates done before, (leaves,).
        gain: how much of P m there is in the sum, (leaves,).
        h: hyperparameters b1, b2, eps and rho.
        feedback: whether what is left out comes back.
        dtype: theirs.
    """
    # There is nothing to correct in the first step.
    before = torch.clamp(step, min=1)
    c1, c2 = one_minus_power(h.b1, before, dtype), one_minus_power(h.b2, before, dtype)
    next1, next2 = (one_minus_power(b, advance(step), dtype) for b in (h.b1, h.b2))
    share, zeros = h.b1 / (1 - h.b1) if feedback else 0.0, torch.zeros_like(c1)
    floor = nonzero(h.eps * next1, dtype)
    # v moves through its variance around the corrected mean, all of it times c2.
    numbers = share, c2 / (c1 * c1), 1 - h.b1, 1 - h.b2, floor, next1 * torch.rsqrt(next2)
    first = step == 0
    return Weights(
        None if can_read(first) and not first.any() else first,
        share - gain.to(dtype),
        (h.rho / ((1 - h.rho) * c1) - share).detach(),
        torch.stack([zeros + x for x in numbers], -1),
    )


def sweep(
    x: Tensor, s: Moving, view: View, weights: Weights, overwrite: bool = False
) -> tuple[Tensor, Moving]:
    """One step.

    Args:
        x: X, (batch, rows, columns).
        s: the state before.
        view: the leaves' geometry.
        weights: of these leaves.
        overwrite: whether the new moments may lie where the old ones do.

    Returns:
        The update's coordinates in the new basis, the state after.
    """
    left = view.axis == 0
    alone = len(x) == 1 and is_plain(x, *s, weights.aim, weights.moments)
    alone = alone and s.mu.is_contiguous() and s.nu.is_contiguous()
    q = _basis(x.detach(), Moving(*(z.detach() for z in s)), view, weights, alone)
    p, m, v = s
    if not alone:
        out, m, v = moments(x, q, p, m, v, weights.moments, left)
        return out, Moving(q, m, v)
    if not overwrite:
        m, v = m.clone(), v.clone()
    out = ldadam_moments_(x[0], q[0], p[0], m[0], v[0], weights.moments[0], left)
    return out[None], Moving(q, m, v)


def lifted(
    x: Tensor, p: Tensor, m: Tensor, weight: Tensor, view: View, u: Tensor | None = None
) -> Tensor:
    """``x + weight P m``, of one leaf also ``+ u``, in the memory of x where nothing else sees it.

    Args:
        x: (batch, rows, columns).
        p: P, (batch, size, rank).
        m: (batch, *coordinates).
        weight: (batch,).
        view: the leaves' geometry.
        u: like x.
    """
    y, z = (p, m) if view.axis == 0 else (m, p.mT)
    if len(x) == 1 and all(can_overwrite(each) for each in (x, y, z, weight)):
        add_product_(x[0], y[0], z[0], addend=None if u is None else u[0], scale=weight[0])
        return x
    x = torch.baddbmm(x, weight[:, None, None] * y, z)
    return x if u is None else x + u


def _basis(x: Tensor, s: Moving, view: View, weights: Weights, alone: bool) -> Tensor:
    """The next basis: one sweep of power iteration; singular vectors at the first step."""
    left = view.axis == 0

    def swept() -> Tensor:
        # B over 1 - rho: what its columns span stays.
        if alone:
            y = ldadam_columns(x[0], s.basis[0], s.mu[0], weights.aim[0], left)[None]
        else:
            y = columns(x, s.basis, s.mu, weights.aim, left)  # (leaves, size, rank)
        # Anything in X that is not finite shows up here.
        return orthonormal_or(y, s.basis)

    def singular() -> Tensor:
        return torch.stack([leading_vectors(one, view.rank) for one in (x if left else x.mT)])

    def otherwise(first: Tensor) -> Tensor:
        return either(
            first.all(), singular, lambda: torch.where(first[:, None, None], singular(), swept())
        )

    if (first := weights.first) is None:
        return one_form(swept())
    return one_form(either(~first.any(), swept, lambda: otherwise(first)))
