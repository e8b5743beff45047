"""Inverse roots by eigenvalue decompositions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core import decompositions
from ...core.fields import static
from ...core.forward import forward_rule
from ...core.watch import is_recorded
from ...ops.registry import applied
from ...ops.symmetric_product import symmetric_product
from .method import WIDE, RootMethod, with_ridge

RULES = ("shift", "shift_then_add", "shift_and_add", "abs", "abs_add", "relu", "pseudo_inverse")


@dataclass(frozen=True)
class evd(RootMethod):
    """Inverse roots by eigenvalue decompositions: ``Q diag(x^(-1/p)) Q^T``, any p > 0.

    With eigenvalues l, in ascending order, of A + eps I:

    - "shift": x = l, and where the smallest is below eps, l - l_min + eps (Distributed Shampoo)
    - "shift_then_add": x = l - min(l_min, 0) + eps with those of A itself
    - "shift_and_add": x = l - min(l_min, 0) + eps, eps twice (DASH's "SHAMPOO")
    - "abs", "abs_add": x = abs(l - eps), without and with eps once more
    - "relu": x = l - eps, and the root is zero where that is below eps
    - "pseudo_inverse": without eps, zero where l <= max(rank_atol, rank_rtol * max(l_max, 0))

    Args:
        rule: how eigenvalues become what roots are taken of.
        rank_rtol: of the pseudo-inverse, >= 0; None for n times the rounding of the dtype.
        rank_atol: of the pseudo-inverse, >= 0.
        dtype: of the decomposition. In float32, None, it takes about half the time and is less
            exact than iterations; where it does not converge, float64 is tried.

    Raises:
        ValueError: an unknown rule, a negative tolerance, or a dtype that is not float64.

    Source: arXiv 2309.06497; arXiv 2602.02016 for the names of its rules.

    >>> import torch, gradtx as gx
    >>> a = torch.diag(torch.tensor([16.0, 81.0]))[None]
    >>> gx.matrix_root(a, 4, gx.inverse_roots.evd("relu"), eps=1e-6).root.diagonal(dim1=1, dim2=2)
    tensor([[0.5000, 0.3333]])
    """

    rule: str = static("shift", choices=RULES)
    rank_rtol: float | None = static(None, within="[0, inf)")
    rank_atol: float = static(0.0, within="[0, inf)")
    dtype: torch.dtype | None = static(torch.float64, choices=WIDE)

    @property
    def drops_zeros(self) -> bool:
        return self.rule in ("relu", "pseudo_inverse")

    def root(self, a: Tensor, ridge: float | Tensor, p: float, start: Tensor | None) -> Tensor:
        if self.rule == "pseudo_inverse" and isinstance(ridge, float) and ridge != 0:
            raise ValueError(f"evd: a pseudo-inverse takes no eps, got {ridge}")
        r = a if self.rule == "shift_then_add" else with_ridge(a, ridge)
        eps = torch.as_tensor(ridge, dtype=a.dtype, device=a.device)
        eps = eps.detach().reshape(-1, 1).expand(a.shape[0], 1)
        if torch.compiler.is_compiling():
            return _root(r, eps, p, self)
        return applied(_Root, r, eps, p, self)

    def powers(self, values: Tensor, eps: Tensor, p: float) -> tuple[Tensor, Tensor, Tensor]:
        """What the root is along every eigenvector, and its derivatives.

        Args:
            values: eigenvalues in ascending order, (batch, n).
            eps: (batch, 1).
            p: the root.

        Returns:
            ``x^(-1/p)``, its derivative by the eigenvalue itself, both (batch, n), and that of x
            by the smallest eigenvalue, (batch, 1).
        """
        low = values[:, :1]
        slope = torch.ones_like(values)
        common = torch.zeros_like(low)
        if self.rule == "shift":
            below = low < eps
            x = torch.where(below, values - low + eps, values)  # the smallest one is eps itself
            common = -below.to(values.dtype)
        elif self.rule in ("shift_then_add", "shift_and_add"):
            x = values - low.clamp(max=0.0) + eps
            common = -(low < 0).to(values.dtype)
        elif self.rule in ("abs", "abs_add"):
            slope = torch.sign(values - eps)
            x = (values - eps).abs() + (eps if self.rule == "abs_add" else 0.0)
        else:
            x = values - eps if self.rule == "relu" else values
            kept = x >= eps if self.rule == "relu" else x > self._cutoff(values)
            slope = kept.to(values.dtype)
            x = torch.where(kept, x, 1.0)
            return slope * _power(x, -1 / p), slope * _power(x, -1 / p - 1) / -p, common
        return _power(x, -1 / p), slope * _power(x, -1 / p - 1) / -p, common

    def _cutoff(self, values: Tensor) -> Tensor:
        rtol = self.rank_rtol
        if rtol is None:
            rtol = values.shape[-1] * torch.finfo(values.dtype).eps
        return (rtol * values[:, -1:].clamp(min=0.0)).clamp(min=self.rank_atol)


def _power(x: Tensor, exponent: float) -> Tensor:
    """In float64; but the last bit of powers differs by where they stand in a stack.

    That of square roots does not, and in float64 it counts where what is smallest is divided by.
    """
    wide, roots = x.double(), -math.log2(-exponent) if exponent < 0 else -1.0
    if not roots.is_integer() or roots < 0:
        return (wide**exponent).to(x.dtype)
    for _ in range(int(roots)):
        wide = wide.sqrt()
    return wide.reciprocal().to(x.dtype)


def _root(a: Tensor, eps: Tensor, p: float, method: evd) -> Tensor:
    values, q = eigh(a)  # (batch, n), (batch, n, n)
    powers, _, _ = method.powers(values, eps, p)
    return symmetric_product(q * powers[:, None, :], q.mT)


class _Root(torch.autograd.Function):
    """The root with a derivative that is finite for equal eigenvalues too.

    With B = Q^T dA Q the derivative is Q (F * B) Q^T, F_ij = (f_i - f_j) / (l_i - l_j), and where
    the smallest eigenvalue shifts all of them, f' times what that moves. A second derivative is
    that of the decomposition, for which eigenvalues must differ.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, eps: Tensor, p: float, method: evd) -> Tensor:
        return _root(a, eps, p, method)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a, eps, ctx.p, ctx.method = inputs
        ctx.save_for_backward(a, eps)
        ctx.save_for_forward(a, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, quotients, slopes, common = _derivative(ctx)
        b = q.mT @ _symmetric(grad) @ q  # (batch, n, n)
        moved = common * (slopes * b.diagonal(dim1=-2, dim2=-1)).sum(-1, keepdim=True)
        first = torch.zeros_like(slopes)
        first[:, :1] = 1.0
        return q @ (quotients * b + torch.diag_embed(first * moved)) @ q.mT, None, None, None

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, da: Tensor, *_: Any) -> Tensor:
        q, quotients, slopes, common = _derivative(ctx)
        b = q.mT @ _symmetric(da) @ q  # (batch, n, n)
        moved = slopes * common * b[:, 0, :1]
        return q @ (quotients * b + torch.diag_embed(moved)) @ q.mT


def _derivative(ctx: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eigenvectors, divided differences (batch, n, n), derivatives of powers, and of the shift."""
    a, eps = ctx.saved_tensors
    values, q = decompositions.eigh(a)
    powers, slopes, common = ctx.method.powers(values, eps, ctx.p)
    gap = values[:, :, None] - values[:, None, :]  # (batch, n, n)
    size = values.abs()
    size = torch.maximum(size[:, :, None], size[:, None, :])
    # Closer eigenvalues have lost half of the digits of the quotient; the mean is as exact there.
    near = gap.abs() <= torch.finfo(a.dtype).eps ** 0.5 * size
    rise = powers[:, :, None] - powers[:, None, :]
    mean = (slopes[:, :, None] + slopes[:, None, :]) / 2
    return q, torch.where(near, mean, rise / torch.where(near, 1.0, gap)), slopes, common


def _symmetric(x: Tensor) -> Tensor:
    return (x + x.mT) / 2


def eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (batch, n) and vectors (batch, n, n) of finite symmetric matrices.

    Where the decomposition does not converge it is made in float64, and where that does not, both
    are NaN.
    """
    if is_recorded():
        values, q = decompositions.eigh(a)
        return values, q
    try:
        values, q = decompositions.eigh(a)
        return values, q
    except torch.linalg.LinAlgError:
        pairs = [_alone(x) for x in a]
    return torch.stack([v for v, _ in pairs]), torch.stack([q for _, q in pairs])


def _alone(x: Tensor) -> tuple[Tensor, Tensor]:
    for dtype in (x.dtype, torch.float64):
        try:
            values, q = decompositions.eigh(x.to(dtype))
        except torch.linalg.LinAlgError:
            continue
        return values.to(x.dtype), q.to(x.dtype)
    return x.new_full(x.shape[:1], torch.nan), torch.full_like(x, torch.nan)
