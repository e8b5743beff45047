"""The operator ``gradtx::denman_beavers``: square roots of stacks of matrices, or their inverses.

    denman_beavers(Tensor k, int steps, bool inverse, ScalarType low) -> Tensor

The kernel keeps a matrix packed between products in float32, as that of ``coupled_newton`` does;
the reference is made of a library's products and is what is differentiated. What is infinite there
may be NaN from the kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradtx.core.autocast import outside_autocast
from gradtx.core.watch import is_watched
from gradtx.ops.matrix_powers import MOST_STEPS, check_stack, identity, in_pieces, multiply
from gradtx.ops.registry import NAMESPACE, Op, operator

__all__ = ["denman_beavers"]

_ARGUMENTS = "(Tensor k, int steps, bool inverse, ScalarType low) -> Tensor"
_SMALL = 64  # rows of matrices whose products take no longer in double precision, on a CPU
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def _iterations(k: Tensor, steps: int, inverse: bool, low: torch.dtype) -> Tensor:
    """Y after all steps, or Z."""
    rounded = None if low == k.dtype else low
    one = identity(k).expand_as(k)
    e = 1.5 * one - 0.5 * k  # since Z is I the first step has one product
    y, z = k, e
    if steps > 1 or not inverse:
        y = multiply(k, e)
    for step in range(2, steps + 1):
        # Y, Z and E are kept in the lower dtype: products of what is rounded to it.
        e = multiply(_rounded(z, low), _rounded(y, low), one, 1.5, -0.5, rounded)
        last = step == steps
        y = y if last and inverse else multiply(y, e, low=rounded)
        z = z if last and not inverse else multiply(e, z, low=rounded)
    return _rounded(z if inverse else y, low)


def _rounded(x: Tensor, low: torch.dtype) -> Tensor:
    return x.to(low).to(x.dtype)


def _check(k: Tensor, steps: int, inverse: bool, low: torch.dtype) -> None:
    check_stack("denman_beavers", "k", k, low)
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"denman_beavers: steps must be in [1, {MOST_STEPS}], got {steps}")


def _fake(k: Tensor, *args: Any) -> Tensor:
    _check(k, *args)
    return torch.empty_like(k, memory_format=torch.contiguous_format)


def _reference(k: Tensor, steps: int, inverse: bool, low: torch.dtype) -> Tensor:
    dtype = k.dtype
    if k.device.type == "cpu" and dtype == low == torch.float32 and k.shape[-1] <= _SMALL:
        k, low = k.double(), torch.float64
    return in_pieces(lambda k: _iterations(k, steps, inverse, low), k).to(dtype).contiguous()


@operator("denman_beavers" + _ARGUMENTS, fake=_fake)
def _denman_beavers(k: Tensor, *args: Any) -> Tensor:
    """See the module's text; ``low`` is what Y, Z and E are rounded to."""
    _check(k, *args)
    return _reference(k, *args)


# Where the kernel has no instructions for a dtype it calls this.
_ON_ITS_OWN = Op("denman_beavers_reference" + _ARGUMENTS, _reference, _fake)
_ON_ITS_OWN.define(_LIBRARY)


@outside_autocast
def denman_beavers(
    k: Tensor, steps: int, inverse: bool = True, low: torch.dtype | None = None
) -> Tensor:
    """Square roots by Denman-Beavers iterations in product form; differentiable.

    From Y = K, Z = I: ``E = 1.5 I - 0.5 Z Y``, ``Y <- Y E``, ``Z <- E Z``. Y tends to the square
    root of K, Z to its inverse.

    Args:
        k: (batch, n, n), float32 or float64, symmetric, with eigenvalues in (0, 3).
        steps: in [1, 2^20].
        inverse: whether Z is wanted, or Y.
        low: float16 or bfloat16 for Y, Z, E and the factors of products.

    Raises:
        ValueError: another shape, dtype or number.

    >>> import torch, gradtx as gx
    >>> k = torch.diag(torch.tensor([0.25, 1.0]))[None]
    >>> gx.ops.denman_beavers(k, 9).diagonal(dim1=1, dim2=2).round(decimals=3)
    tensor([[2., 1.]])
    """
    args = (steps, inverse, low or k.dtype)
    _check(k, *args)
    run = _iterations if is_watched(k) else _denman_beavers
    return run(k, *args)
