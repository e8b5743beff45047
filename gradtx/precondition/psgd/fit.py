"""One step of a fit: factors move so that what they make of a gradient becomes white."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .factors import gram, solved, times, times_all
from .norms import norm
from .procrustes import second_order, until_symmetric

FORMS = ("EQ", "QEP", "QEQ", "Q0.5EQ1.5", "QUAD", "PRO4P", "QUAD4P")
FITS_P = ("PRO4P", "QUAD4P")  # the factors are those of P itself
Hyper = float | Tensor


def preconditioned(form: str, factors: Sequence[Tensor], x: Tensor) -> Tensor:
    """P x: all factors times x, and unless they are those of P their transposes too."""
    x = times_all(factors, x)
    return x if form in FITS_P else times_all(factors, x, transposed=True)


def fitted(
    form: str,
    factors: Sequence[Tensor],
    lipschitz: Tensor | None,
    x: Tensor,
    v: Tensor,
    lr: Hyper,
    beta: Hyper,
    how: str,
    white: bool = True,
) -> tuple[list[Tensor], list[Tensor]]:
    """Factors and lengths after a step on E[x^T P x + v^T P^-1 v], all from the old factors.

    Args:
        form: which geometry, one of FORMS.
        factors: a matrix (batch, d, d) or a diagonal (batch, d) for every side.
        lipschitz: (batch, sides), decayed largest sizes of gradients; None to take each by itself.
        x: (batch, *sides), the gradient, or a Hessian times v.
        v: (batch, *sides), white.
        lr: the step over the size of the gradient.
        beta: decay of sizes.
        how: norm of matrices, see ``norms``.
        white: whether v stands for its covariance, the identity, where its own form is not needed.
    """
    numel = x[0].numel()
    a = times_all(factors, x)
    if form == "EQ":
        b = solved(factors, v)
    else:
        a = a if form in FITS_P else times_all(factors, a, transposed=True)
        b = v
    moved, sizes = [], []
    for side, q in enumerate(factors):
        dense = q.ndim == 3
        rest = numel // q.shape[-1]
        of_x, of_v = (times(q, y, side) if form == "QEP" else y for y in (a, b))
        t1 = gram(of_x, side, dense)
        if form == "EQ" or not white:
            t2 = gram(of_v, side, dense)
        elif form == "QEP":
            t2 = rest * (q @ q.mT if dense else q * q)  # (batch, d, d) or (batch, d)
        else:
            one = torch.ones(q.shape[-1], dtype=q.dtype, device=q.device)
            t2 = rest * (torch.diag(one) if dense else one)
        if not dense:
            size = (t1 + t2).abs().amax(-1)
        elif white and form not in ("EQ", "QEP"):
            size = norm(t1, how) + rest
        else:
            size = norm(t1 + t2, how)
        if lipschitz is not None:
            size = torch.maximum(beta * lipschitz[:, side] + (1 - beta) * size, size)
        some = size > 0
        step = torch.where(some, lr / torch.where(some, size, 1.0), 0.0).to(q.dtype)
        moved.append(_moved(form, q, t1 - t2, step, how))
        sizes.append(size)
    return moved, sizes


def _moved(form: str, q: Tensor, e: Tensor, step: Tensor, how: str) -> Tensor:
    if q.ndim == 2:
        step = step[:, None]
        if form in ("QUAD", "QUAD4P"):
            return q * (1 - step * e / (2 if form == "QUAD" else 1)) ** 2
        return q * (1 - step * e)
    step = step[:, None, None]  # (batch, 1, 1); q and e: (batch, d, d)
    if form == "EQ":
        return q - step * torch.triu(e) @ q
    if form == "QEQ":
        return q - step * q @ e
    if form in ("QUAD", "QUAD4P"):
        k = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
        k = k - step / (2 if form == "QUAD" else 1) * e
        new = k @ q @ k
        return (new + new.mT) / 2
    new = q - step * e @ q
    if form == "Q0.5EQ1.5":
        return second_order(new, how)
    return until_symmetric(new, how) if form == "PRO4P" else new
