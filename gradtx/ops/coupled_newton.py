"""The operator ``gradtx::coupled_newton``: iterations for inverse roots of stacks of matrices.

    coupled_newton(Tensor m, Tensor scale, int p, int steps, float tol, ScalarType low,
                   bool halves) -> Tensor

The kernel keeps a matrix packed between products, in float32, or for the products of M in bfloat16
with sums in float32; W and ``|M - I|`` are made of tiles of M that are still in registers. A thread
has a matrix to itself where there are enough of them. What becomes of a matrix depends neither on
the others nor on the threads. The reference is made of a library's products, which accelerators
run, and is what is differentiated. What is infinite there may be NaN from the kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradtx.core.autocast import outside_autocast
from gradtx.core.watch import is_watched
from gradtx.ops.matrix_powers import (
    MOST_STEPS,
    check_low,
    distance,
    in_pieces,
    may_look,
    multiply,
    times_power,
    times_power_by_halves,
)
from gradtx.ops.registry import NAMESPACE, Op, operator, require_together
from gradtx.ops.symmetric_product import symmetric_product

__all__ = ["coupled_newton"]

_ARGUMENTS = (
    "(Tensor m, Tensor scale, int p, int steps, float tol, ScalarType low, bool halves) -> Tensor"
)
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def _iterations(
    m: Tensor,
    scale: Tensor,
    p: int,
    steps: int,
    tol: float,
    low: torch.dtype,
    halves: bool,
    together: bool = False,
) -> Tensor:
    """X after all steps, or of matrices that are done before then; ``together``, when all are."""
    rounded = None if low == m.dtype else low
    x, done = m, None
    for step in range(steps):
        w = m / -p
        w.diagonal(dim1=-2, dim2=-1).add_(1 + 1 / p)
        if step == 0:  # X is a multiple of I
            new = scale[:, None, None] * w
        else:
            new = symmetric_product(x, w) if halves else multiply(x, w)
        x = new if done is None else torch.where(done, x, new)
        if step == steps - 1:
            break
        power = times_power_by_halves if halves else times_power
        new = power(w, p, m, rounded)
        m = new if done is None else torch.where(done, m, new)
        if tol == 0:
            continue
        near = distance(m) < tol  # (batch, 1, 1)
        near = near.all() if together else near
        done = near if done is None else done | near
        if may_look(x) and done.all():
            break
    return x


def _check(
    m: Tensor, scale: Tensor, p: int, steps: int, tol: float, low: torch.dtype, halves: bool
) -> None:
    if m.ndim != 3 or m.shape[1] != m.shape[2] or scale.shape != m.shape[:1]:
        raise ValueError(
            "coupled_newton: m must be (batch, n, n) and scale (batch,), got "
            f"{tuple(m.shape)} and {tuple(scale.shape)}"
        )
    if m.dtype not in (torch.float32, torch.float64) or scale.dtype != m.dtype:
        raise ValueError(
            f"coupled_newton: m and scale must both be float32 or float64, got {m.dtype} and "
            f"{scale.dtype}"
        )
    require_together("coupled_newton", m, scale)
    check_low("coupled_newton", "m", m, low)
    if halves and low == torch.float16:
        raise ValueError("coupled_newton: halves are not for products in float16")
    if low == torch.bfloat16 and m.dtype != torch.float32:
        raise ValueError(f"coupled_newton: products in bfloat16 are for float32, got {m.dtype}")
    if p < 1:
        raise ValueError(f"coupled_newton: p must be >= 1, got {p}")
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"coupled_newton: steps must be in [1, {MOST_STEPS}], got {steps}")
    if not tol >= 0:
        raise ValueError(f"coupled_newton: tol must be >= 0, got {tol}")


def _fake(m: Tensor, *args: Any) -> Tensor:
    _check(m, *args)
    return torch.empty_like(m, memory_format=torch.contiguous_format)


def _reference(m: Tensor, scale: Tensor, *args: Any) -> Tensor:
    return in_pieces(lambda m, scale: _iterations(m, scale, *args), m, scale).contiguous()


@operator("coupled_newton" + _ARGUMENTS, fake=_fake)
def _coupled_newton(m: Tensor, scale: Tensor, *args: Any) -> Tensor:
    """See the module's text; ``low`` is what the factors of M are rounded to."""
    _check(m, scale, *args)
    return _reference(m, scale, *args)


# Where the kernel has no instructions for a dtype it calls this.
_ON_ITS_OWN = Op("coupled_newton_reference" + _ARGUMENTS, _reference, _fake)
_ON_ITS_OWN.define(_LIBRARY)


@outside_autocast
def coupled_newton(
    m: Tensor,
    scale: Tensor,
    p: int,
    steps: int,
    tol: float = 0.0,
    low: torch.dtype | None = None,
    halves: bool = False,
    together: bool = False,
) -> Tensor:
    """Coupled Newton iterations for inverse p-th roots; differentiable.

    From ``X = scale I``: ``W = (1 + 1/p) I - M/p``, ``X <- X W``, ``M <- W^p M``; when M is I, X is
    the inverse p-th root of what M was over scale^p.

    Args:
        m: (batch, n, n), float32 or float64, symmetric, with eigenvalues in (0, p + 1).
        scale: (batch,), of m's dtype.
        p: the root, >= 1.
        steps: at most, in [1, 2^20].
        tol: a matrix is done when no entry of ``|M - I|`` reaches this; 0 makes all steps.
        low: float16 or bfloat16 for the factors of the products that M is made of.
        halves: compute one half of every product and mirror it; not with float16.
        together: matrices go on until all of them are done.

    Raises:
        ValueError: other shapes, dtypes or numbers.

    >>> import torch, gradtx as gx
    >>> m = torch.diag(torch.tensor([1.5, 0.5]))[None]
    >>> gx.ops.coupled_newton(m, torch.ones(1), 2, 8).diagonal(dim1=1, dim2=2)
    tensor([[0.8165, 1.4142]])
    """
    args = (p, steps, tol, low or m.dtype, halves)
    _check(m, scale, *args)
    if together and tol > 0:
        return _iterations(m, scale, *args, together=True)
    run = _iterations if is_watched(m, scale) else _coupled_newton
    return run(m, scale, *args)
