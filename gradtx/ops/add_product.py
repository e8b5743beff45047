"""The operator ``gradtx::add_product_``: a product of thin factors added to a large matrix.

    add_product_(Tensor x, Tensor a, Tensor b, float beta, float alpha, Tensor? addend,
                 Tensor? scale) -> ()

``x <- beta x + alpha (scale a) b + addend`` in place, in one pass over x. With beta = 0 nothing
that x holds matters, with alpha = 0 nothing that scale, a and b hold. Everything else is as
arithmetic has it, zero times infinity is NaN; a factor that is not finite multiplies a, not sums.
As in any matrix product the order of the sums is the backend's.
"""

from __future__ import annotations

import math

from torch import Tensor

from gradtx.core.autocast import outside_autocast
from gradtx.ops.coordinates import FEW, is_plain
from gradtx.ops.registry import operator, require_apart, require_together, single

__all__ = ["add_product_"]


def _check(x: Tensor, a: Tensor, b: Tensor, addend: Tensor | None, scale: Tensor | None) -> None:
    shape, left, right = x.shape, a.shape, b.shape
    if not len(shape) == len(left) == len(right) == 2 or (
        shape[0] != left[0] or left[1] != right[0] or shape[1] != right[1]
    ):
        raise ValueError(
            f"add_product_: a of shape {tuple(a.shape)} and b of shape {tuple(b.shape)} have no "
            f"product of the shape of x, {tuple(x.shape)}"
        )
    if not x.dtype == a.dtype == b.dtype:
        raise ValueError(f"add_product_: x has {x.dtype}, a has {a.dtype} and b has {b.dtype}")
    if addend is not None and (addend.shape != shape or addend.dtype != x.dtype):
        raise ValueError(
            f"add_product_: x has shape {tuple(shape)} and {x.dtype}, the addend "
            f"{tuple(addend.shape)} and {addend.dtype}"
        )
    if scale is not None and (scale.ndim or scale.dtype != x.dtype):
        raise ValueError(
            f"add_product_: scale must be a 0-d tensor of {x.dtype}, got {tuple(scale.shape)} and "
            f"{scale.dtype}"
        )
    require_together("add_product_", x, a, b, addend, scale)


def _fake(
    x: Tensor,
    a: Tensor,
    b: Tensor,
    beta: float,
    alpha: float,
    addend: Tensor | None = None,
    scale: Tensor | None = None,
) -> None:
    _check(x, a, b, addend, scale)


@operator(
    "add_product_(Tensor(a!) x, Tensor a, Tensor b, float beta, float alpha, "
    "Tensor? addend=None, Tensor? scale=None) -> ()",
    fake=_fake,
    mutates=True,
)
def _add_product_(
    x: Tensor,
    a: Tensor,
    b: Tensor,
    beta: float,
    alpha: float,
    addend: Tensor | None = None,
    scale: Tensor | None = None,
) -> None:
    """Add; see the module's text."""
    _check(x, a, b, addend, scale)
    require_apart("add_product_", x, a, b, *(() if addend is None else (addend,)))
    _add(x, a, b, beta, alpha, addend, scale)


def _add(
    x: Tensor,
    a: Tensor,
    b: Tensor,
    beta: float,
    alpha: float,
    addend: Tensor | None,
    scale: Tensor | None,
) -> Tensor:
    alpha, beta = single(alpha, x.dtype), single(beta, x.dtype)
    if alpha == 0:
        x = x.zero_() if beta == 0 else x.mul_(beta)
    else:
        if not math.isfinite(alpha):
            a, alpha = alpha * a, 1.0
        x = x.addmm_(a if scale is None else scale * a, b, beta=beta, alpha=alpha)
    return x if addend is None else x.add_(addend)


@outside_autocast
def add_product_(
    x: Tensor,
    a: Tensor,
    b: Tensor,
    beta: float = 1.0,
    alpha: float = 1.0,
    addend: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """``x <- beta x + alpha scale a b + addend``, in place.

    Args:
        x: (rows, columns), of memory that nothing else here shares; returned.
        a: (rows, k), of the same dtype.
        b: (k, columns), of the same dtype.
        beta: with 0 nothing that x holds matters.
        alpha: factor of the product.
        addend: like x; None for zeros.
        scale: one more factor, a 0-d tensor of the same dtype; None for one.

    Raises:
        ValueError: other shapes or dtypes.

    >>> import torch, gradtx as gx
    >>> gx.ops.add_product_(torch.ones(1, 2), torch.ones(1, 1), torch.tensor([[1.0, 2.0]]), 2.0)
    tensor([[3., 4.]])
    """
    _check(x, a, b, addend, scale)
    given = [z for z in (addend, scale) if z is not None]
    if x.numel() * a.shape[1] > FEW and is_plain(x, a, b, *given):
        _add_product_(x, a, b, beta, alpha, addend, scale)
        return x
    return _add(x, a, b, beta, alpha, addend, scale)
