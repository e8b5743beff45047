"""The function that takes inverse roots: checks, the ridge, zeros, failures, and what is kept."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.autocast import outside_autocast
from ...core.roots import vector_norm
from ...ops.matrix_powers import identity, may_look, times_power
from .chebyshev import chebyshev
from .denman_beavers import newton_db
from .eigen import evd
from .higher_order import higher_order_newton
from .method import RootMethod, with_ridge
from .newton import coupled_newton
from .scaling import frobenius

METHODS: dict[str, RootMethod] = {
    "evd": evd(),
    "coupled_newton": coupled_newton(),
    "higher_order_newton": higher_order_newton(),
    "newton_db": newton_db(),
    "chebyshev": chebyshev(),
}
EPS_MODES = ("absolute", "relative")


class MatrixRoot(NamedTuple):
    """Inverse roots of a stack and how they went.

    Attributes:
        root: (batch, n, n), in the dtype of the stack.
        failed: (batch,), bool: the matrix or its root was not finite, or the residual too large;
            the previous root was kept, or where there is none the root is NaN.
        zero: (batch,), bool: all entries are zero and so is the ridge; the root is the identity,
            of rules that leave out directions zero.
        residual: (batch,), ``|X^p (A + ridge I) - I|_F / sqrt(n)`` where it was asked for, else ().
    """

    root: Tensor
    failed: Tensor
    zero: Tensor
    residual: Tensor | tuple[()]


@outside_autocast
def matrix_root(
    a: Tensor,
    p: float,
    method: str | RootMethod = "evd",
    *,
    eps: float | Tensor = 0.0,
    eps_mode: str = "absolute",
    previous: Tensor | None = None,
    start: Tensor | None = None,
    residual: bool = False,
    tolerance: float | None = None,
    check_symmetry: bool = False,
) -> MatrixRoot:
    """Inverse p-th roots ``(A + ridge I)^(-1/p)`` of a stack of symmetric matrices.

    All matrices are treated as one batch. Nothing is read back from an accelerator, except by
    torch's eigenvalue decomposition itself. Differentiable by `a`; by `eps` where it is the ridge.

    Args:
        a: (batch, n, n), float32 or float64, symmetric, positive semi-definite.
        p: the root, > 0; the iterations take some only.
        method: "evd", "coupled_newton", "higher_order_newton", "newton_db", "chebyshev", or one of
            them from ``gx.inverse_roots`` with its options.
        eps: ridge, >= 0; a number, or a tensor that broadcasts with (batch, 1, 1).
        eps_mode: "absolute", or "relative" for a ridge of eps times the Frobenius norm of A.
        previous: (batch, n, n), roots to keep where new ones fail.
        start: (batch, n, vectors), where power iterations start.
        residual: whether to report ``|X^p (A + ridge I) - I|_F / sqrt(n)``; p must be whole.
        tolerance: a root whose residual is larger has failed.
        check_symmetry: look whether matrices are symmetric up to 1e-3 of their largest entry.

    Raises:
        ValueError: another shape, dtype or option; a matrix that is not finite, where there is no
            previous root and the stack is on the CPU, outside compilation and derivatives; it names
            the first such matrix.

    Source: arXiv 2309.06497, 2602.02016.

    >>> import torch, gradtx as gx
    >>> a = torch.diag(torch.tensor([16.0, 81.0]))[None]
    >>> gx.matrix_root(a, 4, "newton_db").root.diagonal(dim1=1, dim2=2)
    tensor([[0.5000, 0.3333]])
    """
    known = _method(method, p)
    _check(a, eps, eps_mode, previous, start, tolerance)
    if check_symmetry:
        _check_symmetry(a)
    measuring = residual or tolerance is not None
    if not a.numel():
        nothing = torch.zeros(a.shape[:1], dtype=torch.bool, device=a.device)
        off = a.new_zeros(a.shape[:1]) if measuring else ()
        return MatrixRoot(torch.zeros_like(a), nothing, nothing, off)
    finite = a.isfinite().all(-1).all(-1)  # (batch,)
    if previous is None and may_look(a) and not finite.all():
        index = int(finite.logical_not().nonzero()[0])
        raise ValueError(
            f"matrix_root: matrix {index} of {a.shape[0]} is not finite; give the previous roots "
            "to keep them instead"
        )
    blank = (a == 0).all(-1).all(-1)
    usual = (finite & ~blank)[:, None, None]
    as_usual = may_look(a) and bool(usual.all())  # then a few passes over the stack are saved
    safe = a if as_usual else torch.where(usual, a, identity(a))
    ridge = _ridge(safe, usual, eps, eps_mode)
    x = known.root(safe.to(known.dtype or a.dtype), ridge, p, start).to(a.dtype)
    zero = blank
    if not as_usual:
        x, zero = _with_zeros(x, blank, ridge, p, known)
    failed = ~(finite & x.isfinite().all(-1).all(-1))
    measured = root_residual(a, x, p, ridge) if measuring else None
    if measured is not None and tolerance is not None:
        failed = failed | ~(measured <= tolerance) & ~zero
    if not as_usual or failed.any():
        x = torch.where(failed[:, None, None], torch.nan if previous is None else previous, x)
    return MatrixRoot(x, failed, zero, () if measured is None else measured)


def root_residual(a: Tensor, x: Tensor, p: float, ridge: float | Tensor = 0.0) -> Tensor:
    """How far inverse roots are from being that: ``|X^p (A + ridge I) - I|_F / sqrt(n)``.

    Args:
        a: (batch, n, n).
        x: (batch, n, n), inverse p-th roots.
        p: the root, a whole number.
        ridge: number or (batch, 1, 1).

    Raises:
        ValueError: a root that is no whole number.

    >>> import torch, gradtx as gx
    >>> a = torch.diag(torch.tensor([4.0, 16.0]))[None]
    >>> gx.inverse_roots.root_residual(a, torch.diag(torch.tensor([0.5, 0.25]))[None], 2)
    tensor([0.])
    """
    if not float(p).is_integer():
        raise ValueError(f"root_residual: p must be a whole number, got {p}")
    off = times_power(x, int(p), with_ridge(a, ridge)) - identity(a)
    return vector_norm(off, dim=(-2, -1)) / a.shape[-1] ** 0.5


def _ridge(a: Tensor, usual: Tensor, eps: float | Tensor, eps_mode: str) -> float | Tensor:
    """What is added to the diagonals, a number or (batch, 1, 1); of zeros no relative one."""
    if eps_mode == "absolute":
        return eps
    return eps * torch.where(usual, frobenius()(a, None), 0.0)


def _with_zeros(
    x: Tensor, blank: Tensor, ridge: float | Tensor, p: float, method: RootMethod
) -> tuple[Tensor, Tensor]:
    """Roots with those of matrices of zeros put in, and which of these are there by convention."""
    r = torch.as_tensor(ridge, dtype=x.dtype, device=x.device).expand(x.shape[0], 1, 1)
    there = r > 0
    value = torch.where(there, torch.where(there, r, 1.0) ** (-1 / p), 1.0)
    of_zeros = torch.zeros_like(x) if method.drops_zeros else value * identity(x)
    return torch.where(blank[:, None, None], of_zeros, x), blank & ~there[:, 0, 0]


def _method(method: str | RootMethod, p: float) -> RootMethod:
    if isinstance(method, str) and method in METHODS:
        method = METHODS[method]
    if not isinstance(method, RootMethod):
        raise ValueError(
            f"matrix_root: method must be one of {tuple(METHODS)} or made by gx.inverse_roots, "
            f"got {method!r}"
        )
    if isinstance(p, bool) or not isinstance(p, (int, float, Fraction)) or not 0 < p < math.inf:
        raise ValueError(f"matrix_root: p must be a number > 0, got {p!r}")
    method.check(p)
    return method


def _check(
    a: Tensor,
    eps: float | Tensor,
    eps_mode: str,
    previous: Tensor | None,
    start: Tensor | None,
    tolerance: float | None,
) -> None:
    if a.ndim != 3 or a.shape[-1] != a.shape[-2]:
        raise ValueError(
            f"matrix_root: a must be a stack (batch, n, n), got a tensor of shape {tuple(a.shape)}"
        )
    if a.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"matrix_root: a must be float32 or float64, got {a.dtype}")
    if not isinstance(eps, Tensor) and not 0 <= eps < math.inf:
        raise ValueError(f"matrix_root: eps must be >= 0, got {eps}")
    if eps_mode not in EPS_MODES:
        raise ValueError(f"matrix_root: eps_mode must be one of {EPS_MODES}, got {eps_mode!r}")
    if previous is not None and (previous.shape != a.shape or previous.dtype != a.dtype):
        raise ValueError(
            f"matrix_root: previous must be like a, {a.dtype} of shape {tuple(a.shape)}, got "
            f"{previous.dtype} of shape {tuple(previous.shape)}"
        )
    if start is not None and (start.ndim != 3 or start.shape[:2] != a.shape[:2]):
        raise ValueError(
            f"matrix_root: start must have the shape {tuple(a.shape[:2])} and vectors in its last "
            f"dimension, got {tuple(start.shape)}"
        )
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"matrix_root: tolerance must be > 0, got {tolerance}")


def _check_symmetry(a: Tensor) -> None:
    off = (a - a.mT).abs().amax((-2, -1)) > 1e-3 * a.abs().amax((-2, -1))
    if off.any():
        index = int(off.nonzero()[0])
        raise ValueError(f"matrix_root: matrix {index} of {a.shape[0]} is not symmetric")
