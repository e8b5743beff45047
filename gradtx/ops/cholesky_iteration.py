"""The operators of a step of orthogonal iteration by Cholesky decompositions.

    cholesky_iteration(Tensor s) -> (Tensor next, Tensor first, Tensor second, Tensor least)
    cholesky_turn(Tensor x, Tensor first, Tensor second, bool left) -> Tensor

With S = L L^T and L^T L = M M^T the decomposition S = q r with a positive diagonal of r is
q = L M^-T, and q^T S q = M^T M; this is two steps of Rutishauser's LR algorithm. The kernels keep
matrices packed between the products, of which the triangular ones are done by halves; the reference
is made of a library's. As in any matrix product the order of the sums is the backend's. Results are
constants for derivatives. A matrix is given up as soon as a pivot of M shows that q would be far
from orthogonal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradtx.core import decompositions
from gradtx.core.autocast import outside_autocast
from gradtx.ops.registry import NAMESPACE, Op, operator, require_together

__all__ = ["cholesky_iteration", "cholesky_turn"]

_ITERATION = (
    "(Tensor s, Tensor? order=None, Tensor? ridge=None) -> "
    "(Tensor next, Tensor first, Tensor second, Tensor least)"
)
_TURN = "(Tensor x, Tensor first, Tensor second, bool left, Tensor? order=None) -> Tensor"
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")

LEAST = 2.0**-6
"""Of the squared pivots of M, as a share of the diagonal of L^T L."""

Iterated = tuple[Tensor, Tensor, Tensor, Tensor]


def _check_order(who: str, order: Tensor | None, shape: tuple[int, int]) -> None:
    if order is not None and (order.dtype != torch.int64 or tuple(order.shape) != shape):
        raise ValueError(
            f"{who}: order must be (batch, n) = {shape} of int64, got {tuple(order.shape)} of "
            f"{order.dtype}"
        )


def _check(s: Tensor, order: Tensor | None, ridge: Tensor | None) -> None:
    if s.ndim != 3 or s.shape[1] != s.shape[2]:
        raise ValueError(f"cholesky_iteration: s must be (batch, n, n), got {tuple(s.shape)}")
    if s.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"cholesky_iteration: s must be float32 or float64, got {s.dtype}")
    _check_order("cholesky_iteration", order, (s.shape[0], s.shape[1]))
    if ridge is not None and (ridge.dtype != s.dtype or tuple(ridge.shape) != (s.shape[0],)):
        raise ValueError(
            f"cholesky_iteration: ridge must be (batch,) of {s.dtype}, got {tuple(ridge.shape)} "
            f"of {ridge.dtype}"
        )
    given = [t for t in (order, ridge) if t is not None]
    require_together("cholesky_iteration", s, *given)


def _fake(s: Tensor, order: Tensor | None = None, ridge: Tensor | None = None) -> Iterated:
    _check(s, order, ridge)
    next_, first, second = (s.new_empty(s.shape) for _ in range(3))
    return next_, first, second, s.new_empty(s.shape[:1])


def _ordered(x: Tensor, order: Tensor | None, dim: int) -> Tensor:
    if order is None:
        return x
    where = order[:, :, None] if dim == 1 else order[:, None]
    return torch.gather(x, dim, where.expand_as(x))


def _reference(s: Tensor, order: Tensor | None = None, ridge: Tensor | None = None) -> Iterated:
    s = _ordered(_ordered(s, order, 1), order, 2)
    if ridge is not None:
        s = s + ridge[:, None, None] * torch.eye(s.shape[1], dtype=s.dtype, device=s.device)
    first, failed = decompositions.cholesky_ex(s)  # (batch, n, n)
    square = first.mT @ first
    second, again = decompositions.cholesky_ex(square)
    shares = second.diagonal(dim1=1, dim2=2).square() / square.diagonal(dim1=1, dim2=2)
    least = shares.amin(-1) if s.shape[1] else s.new_full(s.shape[:1], torch.inf)
    found = (failed == 0) & (again == 0) & torch.isfinite(second).all(-1).all(-1)
    found &= least >= LEAST
    next_, first, second = (
        torch.where(found[:, None, None], x, torch.nan).contiguous()
        for x in (second.mT @ second, first, second)
    )
    return next_, first, second, torch.where(found, least, 0.0)


@operator("cholesky_iteration" + _ITERATION, fake=_fake)
def _cholesky_iteration(
    s: Tensor, order: Tensor | None = None, ridge: Tensor | None = None
) -> Iterated:
    """See the module's text."""
    _check(s, order, ridge)
    return _reference(s, order, ridge)


# Where the kernel has no instructions for a dtype it calls this.
_ON_ITS_OWN = Op("cholesky_iteration_reference" + _ITERATION, _reference, _fake)
_ON_ITS_OWN.define(_LIBRARY)


@outside_autocast
def cholesky_iteration(
    s: Tensor, order: Tensor | None = None, ridge: Tensor | None = None
) -> Iterated:
    """``M^T M``, L, M and how exact M is, for ``S = L L^T`` and ``L^T L = M M^T``.

    Args:
        s: (batch, n, n), float32 or float64, symmetric and positive definite.
        order: in which the rows and the columns of S come, (batch, n) of int64; None as they are.
        ridge: added to the diagonal of S, (batch,); None for nothing.

    Returns:
        Three of (batch, n, n), the factors lower triangular, and (batch,), the least squared pivot
        of M as a share of the diagonal of L^T L: 1 where that is diagonal, 0 where there is no such
        M or the share is below 2^-6; all three are NaN then.

    Raises:
        ValueError: another shape or dtype.

    >>> import torch, gradtx as gx
    >>> s = torch.tensor([[[4.0, 2.0], [2.0, 2.0]]])
    >>> next_, first, second, least = gx.ops.cholesky_iteration(s)
    >>> first
    tensor([[[2., 0.],
             [1., 1.]]])
    >>> least
    tensor([0.8000])
    """
    _check(s, order, ridge)
    found: Iterated = _cholesky_iteration(s, order, ridge)
    return found


def _check_turn(x: Tensor, first: Tensor, second: Tensor, left: bool, order: Tensor | None) -> None:
    n = x.shape[1 if left else 2] if x.ndim == 3 else -1
    want = (x.shape[0], n, n) if x.ndim == 3 else ()
    if x.ndim != 3 or tuple(first.shape) != want or tuple(second.shape) != want:
        shape = "(batch, n, k)" if left else "(batch, k, n)"
        raise ValueError(
            f"cholesky_turn: x must be {shape}, first and second (batch, n, n), got "
            f"{[tuple(t.shape) for t in (x, first, second)]}"
        )
    dtypes = [t.dtype for t in (x, first, second)]
    if dtypes[0] not in (torch.float32, torch.float64) or len(set(dtypes)) != 1:
        raise ValueError(f"cholesky_turn: all must be float32 or all float64, got {dtypes}")
    _check_order("cholesky_turn", order, (x.shape[0], n))
    require_together("cholesky_turn", x, first, second, *(() if order is None else (order,)))


def _fake_turn(
    x: Tensor, first: Tensor, second: Tensor, left: bool, order: Tensor | None = None
) -> Tensor:
    _check_turn(x, first, second, left, order)
    return x.new_empty(x.shape)


def _reference_turn(
    x: Tensor, first: Tensor, second: Tensor, left: bool, order: Tensor | None = None
) -> Tensor:
    x = _ordered(x, order, 1 if left else 2)
    if left:
        y = decompositions.solve_triangular(second, first.tril().mT @ x, upper=False)
    else:
        y = decompositions.solve_triangular(second.mT, x @ first.tril(), upper=True, left=False)
    return y.contiguous()


@operator("cholesky_turn" + _TURN, fake=_fake_turn)
def _cholesky_turn(
    x: Tensor, first: Tensor, second: Tensor, left: bool, order: Tensor | None = None
) -> Tensor:
    """See the module's text."""
    _check_turn(x, first, second, left, order)
    return _reference_turn(x, first, second, left, order)


_TURN_ON_ITS_OWN = Op("cholesky_turn_reference" + _TURN, _reference_turn, _fake_turn)
_TURN_ON_ITS_OWN.define(_LIBRARY)


@outside_autocast
def cholesky_turn(
    x: Tensor, first: Tensor, second: Tensor, left: bool = False, order: Tensor | None = None
) -> Tensor:
    """``x q`` or, from the left, ``q^T x`` for ``q = L M^-T`` as ``cholesky_iteration`` finds it.

    Args:
        x: (batch, k, n), or (batch, n, k) from the left; float32 or float64.
        first: L, (batch, n, n); what lies above the diagonal is not looked at.
        second: M, likewise.
        left: multiply from the left.
        order: in which the columns of x come, or its rows, (batch, n) of int64; None as they are.

    Raises:
        ValueError: other shapes or dtypes.

    >>> import torch, gradtx as gx
    >>> s = torch.tensor([[[4.0, 2.0], [2.0, 2.0]]])
    >>> _, first, second, _ = gx.ops.cholesky_iteration(s)
    >>> gx.ops.cholesky_turn(torch.eye(2)[None], first, second)
    tensor([[[ 0.8944, -0.4472],
             [ 0.4472,  0.8944]]])
    """
    _check_turn(x, first, second, left, order)
    out: Tensor = _cholesky_turn(x, first, second, left, order)
    return out
