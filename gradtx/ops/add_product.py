"""The operator ``gradtx::add_product_``: a product of thin factors added to a large matrix.

    add_product_(Tensor x, Tensor a, Tensor b, float beta, float alpha) -> ()

``x <- beta x + alpha a b`` in place, in one pass over x; with beta = 0 x is not read. As in any
matrix product the order of the sums is the backend's.
"""

from __future__ import annotations

from torch import Tensor

from gradtx.ops.coordinates import FEW, is_plain
from gradtx.ops.registry import operator

__all__ = ["add_product_"]


def _check(x: Tensor, a: Tensor, b: Tensor) -> None:
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


def _fake(x: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> None:
    _check(x, a, b)


@operator(
    "add_product_(Tensor(a!) x, Tensor a, Tensor b, float beta, float alpha) -> ()",
    fake=_fake,
    mutates=True,
)
def _add_product_(x: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> None:
    """Add; see the module's text."""
    _check(x, a, b)
    x.addmm_(a, b, beta=beta, alpha=alpha)


def add_product_(x: Tensor, a: Tensor, b: Tensor, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """``x <- beta x + alpha a b``, in place.

    Args:
        x: (rows, columns), of memory that a and b do not share; returned.
        a: (rows, k), of the same dtype.
        b: (k, columns), of the same dtype.
        beta: with 0 nothing that x holds matters.
        alpha: factor of the product.

    Raises:
        ValueError: other shapes or dtypes.

    >>> import torch, gradtx as gx
    >>> gx.ops.add_product_(torch.ones(1, 2), torch.ones(1, 1), torch.tensor([[1.0, 2.0]]), 2.0)
    tensor([[3., 4.]])
    """
    _check(x, a, b)
    if x.numel() * a.shape[1] > FEW and is_plain(x, a, b):
        _add_product_(x, a, b, beta, alpha)
        return x
    return x.addmm_(a, b, beta=beta, alpha=alpha)
