"""The operator ``gradtx::clenshaw``: Chebyshev series of stacks of symmetric matrices.

    clenshaw(Tensor s, float[] coefficients, ScalarType low) -> Tensor

The kernel keeps a matrix packed between products in float32, as that of ``coupled_newton`` does;
the reference is made of a library's products and is what is differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradtx.core.autocast import outside_autocast
from gradtx.core.watch import is_watched
from gradtx.ops.matrix_powers import check_stack, identity, in_pieces, multiply
from gradtx.ops.registry import NAMESPACE, Op, operator, single

__all__ = ["clenshaw"]

_ARGUMENTS = "(Tensor s, float[] coefficients, ScalarType low) -> Tensor"
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def _series(s: Tensor, coefficients: Sequence[float], low: torch.dtype) -> Tensor:
    """The sum by Clenshaw's recurrence, from the highest coefficient down."""
    rounded = None if low == s.dtype else low
    one = identity(s).expand_as(s)
    *rest, highest = coefficients
    after, b = torch.zeros_like(s), highest * one  # b_(k+1) and b_k
    for k in reversed(range(len(rest))):
        twice = 1.0 if k == 0 else 2.0
        # The highest term is a multiple of the identity and needs no product.
        product = highest * s if k == len(rest) - 1 else multiply(s, b, low=rounded)
        after, b = b, twice * product - after + rest[k] * one
    return b


def _check(s: Tensor, coefficients: Sequence[float], low: torch.dtype) -> None:
    check_stack("clenshaw", "s", s, low)
    if not all(math.isfinite(single(c, s.dtype)) for c in coefficients):
        raise ValueError(
            f"clenshaw: coefficients must be finite in {s.dtype}, got {list(coefficients)}"
        )
    if len(coefficients) < 2:
        raise ValueError(
            f"clenshaw: there must be two coefficients at least, got {list(coefficients)}"
        )


def _fake(s: Tensor, *args: Any) -> Tensor:
    _check(s, *args)
    return torch.empty_like(s, memory_format=torch.contiguous_format)


def _vmap(info: Any, in_dims: tuple[Any, ...], s: Tensor, *args: Any) -> tuple[Tensor, int]:
    s = s.movedim(in_dims[0], 0)  # the other arguments hold no tensors
    return _clenshaw(s.flatten(0, 1), *args).reshape(s.shape), 0


def _reference(s: Tensor, *args: Any) -> Tensor:
    return in_pieces(lambda s: _series(s, *args), s).contiguous()


@operator("clenshaw" + _ARGUMENTS, fake=_fake, vmap=_vmap)
def _clenshaw(s: Tensor, *args: Any) -> Tensor:
    """See the module's text; ``low`` is what the factors of products are rounded to."""
    _check(s, *args)
    return _reference(s, *args)


# Where the kernel has no instructions for a dtype it calls this.
_ON_ITS_OWN = Op("clenshaw_reference" + _ARGUMENTS, _reference, _fake, _vmap)
_ON_ITS_OWN.define(_LIBRARY)


@outside_autocast
def clenshaw(s: Tensor, coefficients: Sequence[float], low: torch.dtype | None = None) -> Tensor:
    """Sums ``c_0 I + c_1 T_1(S) + c_2 T_2(S) + ...`` of Chebyshev polynomials; differentiable.

    By Clenshaw's recurrence: ``b_k = 2 S b_(k+1) - b_(k+2) + c_k I``, at last with S for 2 S.

    Args:
        s: (batch, n, n), float32 or float64, symmetric, with eigenvalues in [-1, 1].
        coefficients: c_0, c_1, ..., two at least.
        low: float16 or bfloat16 for the factors of products.

    Raises:
        ValueError: another shape or dtype, too few coefficients, or one that is not finite.

    >>> import torch, gradtx as gx
    >>> s = torch.diag(torch.tensor([0.5, -1.0]))[None]
    >>> gx.ops.clenshaw(s, [1.0, 0.0, 2.0]).diagonal(dim1=1, dim2=2)
    tensor([[0., 3.]])
    """
    args = (list(coefficients), low or s.dtype)
    _check(s, *args)
    run = _series if is_watched(s) else _clenshaw
    return run(s, *args)
