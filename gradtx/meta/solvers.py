"""Linear equations ``A x = b`` between trees, where A is a function: iterations without branches.

Each iterates until the residual is small or ``maxiter`` is reached. Where values can be read at no
cost (host tensors, also under ``vmap`` and ``grad``) the loop then ends; elsewhere it goes on
without changing anything more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.checks import all_done
from ..core.plain import plain
from ..core.roots import divide
from ..core.tree import PyTree
from .leaves import split, vjp

Linear = Callable[[PyTree], PyTree]
Solve = Callable[[Linear, PyTree], PyTree]
_MOST = 100  # iterations where nothing is said


class _Vector:
    """A linear function of trees as one of vectors."""

    def __init__(self, who: str, matvec: Linear, b: PyTree, ridge: float, tol: float) -> None:
        if not callable(matvec):
            raise TypeError(f"{who}: matvec must be a function of a tree like b")
        _check(who, ridge, tol)
        self.parts = split(b)
        if not self.parts.floats:
            raise ValueError(f"{who}: b has no floating-point tensor")
        self._who, self._matvec, self._ridge = who, matvec, ridge
        self.b, self.tol = self.join(self.parts.floats), tol

    def join(self, leaves: Any) -> Tensor:
        return torch.cat([x.reshape(-1) for x in leaves])

    def tree(self, x: Tensor) -> PyTree:
        pieces = x.split([p.numel() for p in self.parts.floats])
        shaped = [
            v.reshape(p.shape).to(p.dtype) for v, p in zip(pieces, self.parts.floats, strict=True)
        ]
        return self.parts.rebuild(shaped, self.parts.others)

    def times(self, x: Tensor) -> Tensor:
        return self.join(split(self._matvec(self.tree(x))).floats) + self._ridge * x

    def transposed(self, x: Tensor) -> Tensor:
        return vjp(self.times, torch.zeros_like(self.b))[1](x)[0]

    def steps(self, maxiter: int | None) -> range:
        if maxiter is None:
            return range(min(10 * self.b.numel(), _MOST))
        maxiter = plain(maxiter)
        if isinstance(maxiter, bool) or not isinstance(maxiter, int) or maxiter < 0:
            raise ValueError(f"{self._who}: maxiter must be an integer >= 0, got {maxiter!r}")
        return range(maxiter)


def cg(
    matvec: Linear,
    b: PyTree,
    *,
    x0: PyTree = None,
    ridge: float = 0.0,
    tol: float = 1e-6,
    maxiter: int | None = None,
) -> PyTree:
    """Conjugate gradients: A symmetric and positive definite.

    Args:
        matvec: ``x -> A x``, trees like ``b``.
        b: right-hand side.
        x0: where to start; default zero.
        ridge: multiple of the identity added to A, >= 0.
        tol: stop at ``||b - A x|| <= tol ||b||``.
        maxiter: most iterations; default ten times the number of entries, at most 100.

    Raises:
        ValueError: a negative ``ridge`` or ``tol``, or ``maxiter`` is no integer >= 0.

    >>> import torch, gradtx as gx
    >>> gx.meta.cg(lambda x: {"w": 4 * x["w"]}, {"w": torch.tensor([2.0, 8.0])})
    {'w': tensor([0.5000, 2.0000])}
    """
    system = _Vector("cg", matvec, b, ridge, tol)
    return system.tree(_cg(system.times, system.b, _start(system, x0), system, maxiter))


def normal_cg(
    matvec: Linear,
    b: PyTree,
    *,
    x0: PyTree = None,
    ridge: float = 0.0,
    tol: float = 1e-6,
    maxiter: int | None = None,
) -> PyTree:
    """Conjugate gradients on ``A^T A x = A^T b``: any regular A, or least squares.

    Args: those of ``cg``; ``ridge`` is added to ``A^T A``. A^T comes from ``torch.func.vjp``.

    >>> import torch, gradtx as gx
    >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> gx.meta.normal_cg(lambda x: turn @ x, torch.tensor([1.0, 2.0]))
    tensor([ 2., -1.])
    """
    _check("normal_cg", ridge, tol)
    system = _Vector("normal_cg", matvec, b, 0.0, tol)
    right = system.transposed(system.b)

    def both(x: Tensor) -> Tensor:
        return system.transposed(system.times(x)) + ridge * x

    return system.tree(_cg(both, right, _start(system, x0), system, maxiter))


def minres(
    matvec: Linear,
    b: PyTree,
    *,
    x0: PyTree = None,
    ridge: float = 0.0,
    tol: float = 1e-6,
    maxiter: int | None = None,
) -> PyTree:
    """Minimal residuals: A symmetric, definite or not.

    Args: those of ``cg``.

    Source: Paige and Saunders, SIAM J. Numer. Anal. 12 (1975).

    >>> import torch, gradtx as gx
    >>> gx.meta.minres(lambda x: torch.tensor([1.0, -2.0]) * x, torch.tensor([3.0, 4.0]))
    tensor([ 3.0000, -2.0000])
    """
    system = _Vector("minres", matvec, b, ridge, tol)
    start = _start(system, x0)
    r, unit, floor = _residual(system.times, system.b, start, tol)
    x = torch.zeros_like(r)
    v, v_old = r, torch.zeros_like(r)
    beta = _norm(r)
    v = divide(r, beta)
    # Givens rotations of the tridiagonal matrix that Lanczos builds; w are its search directions.
    w, w_old = torch.zeros_like(r), torch.zeros_like(r)
    c, c_old, s, s_old = (torch.ones_like(beta), torch.ones_like(beta), beta * 0, beta * 0)
    eta, below = beta, beta * 0
    done = beta <= floor
    for _ in system.steps(maxiter):
        if all_done(done):
            break
        u = system.times(v)
        alpha = torch.dot(u, v)
        u = u - alpha * v - below * v_old
        after = _norm(u)
        delta = c * alpha - c_old * s * below
        first = torch.sqrt(delta * delta + after * after)
        second = s * alpha + c_old * c * below
        third = s_old * below
        direction = divide(v - third * w_old - second * w, first)
        c_new, s_new = divide(delta, first), divide(after, first)
        singular = first == 0
        moved = x + torch.where(singular, 0.0, c_new * eta) * direction
        x = torch.where(done, x, moved)
        done = done | singular
        eta_new = -s_new * eta
        v_old, v = v, divide(u, after)
        w_old, w = w, direction
        c_old, c, s_old, s = c, c_new, s, s_new
        eta, below = eta_new, after
        done = done | (eta_new.abs() <= floor) | (after == 0)
    return system.tree(start + unit * x)


def neumann(
    matvec: Linear, b: PyTree, *, alpha: float = 1.0, ridge: float = 0.0, maxiter: int = 20
) -> PyTree:
    """The first terms of ``alpha sum_k (I - alpha A)^k b``: A near the identity over alpha.

    Args:
        matvec: ``x -> A x``.
        b: right-hand side.
        alpha: step, below 2 over the largest eigenvalue of A.
        ridge: multiple of the identity added to A, >= 0.
        maxiter: terms after the first.

    Raises:
        ValueError: a negative ``ridge``, or ``maxiter`` is no integer >= 0.

    Source: arXiv 1911.02590.

    >>> import torch, gradtx as gx
    >>> gx.meta.neumann(lambda x: 0.5 * x, torch.tensor([1.0]), maxiter=3)
    tensor([1.8750])
    """
    system = _Vector("neumann", matvec, b, ridge, 0.0)
    term = total = system.b
    for _ in system.steps(maxiter):
        term = term - alpha * system.times(term)
        total = total + term
    return system.tree(alpha * total)


def _cg(
    times: Callable[[Tensor], Tensor],
    b: Tensor,
    start: Tensor,
    system: _Vector,
    maxiter: int | None,
) -> Tensor:
    r, unit, floor = _residual(times, b, start, system.tol)
    x = torch.zeros_like(r)
    p, size = r, torch.dot(r, r)
    done = size <= floor**2
    for _ in system.steps(maxiter):
        if all_done(done):
            break
        ap = times(p)
        curvature = torch.dot(p, ap)
        done = done | (curvature == 0)  # there is no solution along p
        step = divide(size, curvature)
        x = torch.where(done, x, x + step * p)
        r = torch.where(done, r, r - step * ap)
        after = torch.dot(r, r)
        p = r + divide(after, size) * p
        size = after
        done = done | (size <= floor**2)
    return start + unit * x


def _residual(
    times: Callable[[Tensor], Tensor], b: Tensor, start: Tensor, tol: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What is left of ``b`` at the start, in a unit of which its squares are numbers of the dtype.

    Returns:
        The rest over the unit; the unit, a power of two; the length over it at which to stop.
    """
    r = b - times(start)
    largest = r.detach().abs().amax() if r.numel() else r.new_ones(())
    power = torch.floor(torch.log2(torch.where(largest == 0, 1.0, largest)))
    unit = torch.exp2(torch.clamp(power, min=math.log2(torch.finfo(r.dtype).tiny)))
    return r / unit, unit, tol * _norm(b / unit)


def _check(who: str, ridge: float, tol: float) -> None:
    if not (ridge >= 0 and tol >= 0):
        raise ValueError(f"{who}: ridge and tol must be >= 0, got {ridge} and {tol}")


def _start(system: _Vector, x0: PyTree) -> Tensor:
    return torch.zeros_like(system.b) if x0 is None else system.join(split(x0).floats)


def _norm(x: Tensor) -> Tensor:
    return torch.sqrt(torch.dot(x, x))


def solution_of(solve: Solve | None) -> Solve:
    """The solver where none is chosen."""
    return normal_cg if solve is None else solve
