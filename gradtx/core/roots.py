"""Roots and quotients with finite values and derivatives where both sides may be zero.

The root's derivative at zero is infinite, and infinity times zero is not a number: one entry
without a gradient would spoil every derivative through an update. The value is that of the plain
function; where nothing differentiates, so is what is computed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .forward import forward_rule
from .parts import in_parts
from .watch import is_watched


def root(x: Tensor, plus: float | Tensor = 0.0) -> Tensor:
    """``sqrt(x + plus)``, with derivative zero at zero.

    >>> import torch, gradtx as gx
    >>> from gradtx.core.roots import root
    >>> torch.func.grad(lambda x: root(x).sum())(torch.tensor([0.0, 4.0]))
    tensor([0.0000, 0.2500])
    """
    if isinstance(plus, Tensor) or plus:
        x = x + plus
    if not is_watched(x):
        return torch.sqrt(x)
    if torch.compiler.is_compiling():
        zero = x == 0
        return torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, x)))
    if torch._C._are_functorch_transforms_active():
        return _Root.apply(x)
    return _RecordedRoot.apply(x)


class _Root(torch.autograd.Function):
    """The root with one pass forward, and in its derivatives one more than the plain one."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sqrt(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad / _twice(*ctx.saved_tensors)

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, dx: Tensor) -> Tensor:
        return dx / _twice(*ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], x: Tensor) -> tuple[Tensor, int]:
        return _Root.apply(x), in_dims[0]


class _RecordedRoot(torch.autograd.Function):
    """The same without ``torch.func``, which asks for a form that is slow to call."""

    backward = staticmethod(_Root.backward)
    jvp = staticmethod(_Root.jvp)

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.sqrt(x)
        ctx.save_for_backward(y)
        ctx.save_for_forward(y)
        return y


def _twice(y: Tensor) -> Tensor:
    """``2 y``, and infinity for zero, so that quotients and their derivatives are zero there."""
    return 2 * _flat_at_zero(y)


def _flat_at_zero(y: Tensor) -> Tensor:
    return torch.threshold(y, 0.0, math.inf)


def vector_norm(
    x: Tensor,
    dim: int | tuple[int, ...] | None = None,
    keepdim: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Euclidean norm along dimensions, with derivatives zero at zero, the second ones too.

    >>> import torch
    >>> from gradtx.core.roots import vector_norm
    >>> vector_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), dim=1)
    tensor([5., 0.])
    """
    if not is_watched(x):
        return torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim, dtype=dtype)
    dims = tuple(range(x.ndim)) if dim is None else dim
    zero = (x == 0).all(dims, keepdim=True)
    norm = torch.linalg.vector_norm(torch.where(zero, 1.0, x), dim=dims, keepdim=True, dtype=dtype)
    norm = torch.where(zero, 0.0, norm)
    return norm if keepdim else norm.squeeze(dims)


def floored_root(square: Tensor, floor: float | Tensor) -> Tensor:
    """``max(sqrt(square), floor)``, with derivative zero where the floor holds.

    >>> import torch
    >>> from gradtx.core.roots import floored_root
    >>> floored_root(torch.tensor([1.0, 9.0]), 2.0)
    tensor([2., 3.])
    """
    low = square.sqrt() <= floor
    return torch.where(low, floor, torch.where(low, torch.ones_like(square), square).sqrt())


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """``numerator / denominator``, and the numerator where the denominator is zero.

    >>> import torch, gradtx as gx
    >>> gx.divide(torch.tensor([0.0, 3.0]), torch.tensor([0.0, 2.0]))
    tensor([0.0000, 1.5000])
    """
    return numerator / torch.where(denominator == 0, 1.0, denominator)


def nonzero(eps: float | Tensor, dtype: torch.dtype) -> float | Tensor:
    """``eps``, and where it is zero a number too small to change the root of any square.

    >>> import torch
    >>> from gradtx.core.roots import nonzero
    >>> nonzero(0.5, torch.float32), nonzero(torch.tensor(0.0), torch.float32) > 0
    (0.5, tensor(True))
    """
    tiny = torch.finfo(dtype).tiny
    return torch.where(eps == 0, tiny, eps) if isinstance(eps, Tensor) else eps or tiny


def divide_by_sum(numerator: Tensor, size: Tensor, eps: float | Tensor) -> Tensor:
    """``numerator / (size + eps)`` for a root, and zero where all three are zero.

    >>> import torch
    >>> from gradtx.core.roots import divide_by_sum
    >>> divide_by_sum(torch.tensor([0.0, 3.0]), torch.tensor([0.0, 2.0]), 0.0)
    tensor([0.0000, 1.5000])
    """
    # One number is changed, not every entry looked at.
    total, tiny = size + nonzero(eps, size.dtype), torch.finfo(size.dtype).tiny
    large = not isinstance(eps, Tensor) and eps > tiny
    if not large and is_watched(numerator, total):  # or a derivative near the largest number
        nothing = (numerator == 0) & (total <= tiny)
        total = torch.where(nothing, 1.0, total)
    return numerator / total


def divide_by_root(
    numerator: Tensor, square: Tensor, eps: float | Tensor, plus: float | Tensor = 0.0
) -> Tensor:
    """``numerator / (sqrt(square + plus) + eps)``, and zero where all are zero.

    Where it is differentiated, one operation that keeps two tensors: an adaptive step.

    >>> import torch
    >>> from gradtx.core.roots import divide_by_root
    >>> divide_by_root(torch.tensor([0.0, 3.0]), torch.tensor([0.0, 4.0]), 1.0)
    tensor([0., 1.])
    """
    if isinstance(plus, Tensor) or plus:
        square = square + plus
    if (
        torch.compiler.is_compiling()
        or isinstance(eps, Tensor)
        or eps <= torch.finfo(square.dtype).tiny
        or numerator.shape != square.shape
        or numerator.dtype != square.dtype
        or not is_watched(numerator, square)
    ):
        return divide_by_sum(numerator, root(square), eps)
    functorch = torch._C._are_functorch_transforms_active()
    return (_Quotient if functorch else _RecordedQuotient).apply(numerator, square, eps)[0]


class _Quotient(torch.autograd.Function):
    """A quotient by a root and a number, and the root, of which derivatives are made."""

    @staticmethod
    def forward(numerator: Tensor, square: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        y = torch.sqrt(square)
        return numerator / (y + eps), y

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        _keep(ctx, output, inputs[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, dy: Tensor | None) -> Any:
        out, y = ctx.saved_tensors
        above = None if grad is None else grad / (y + ctx.eps)
        below = None if dy is None else dy / _twice(y)
        if above is not None and ctx.needs_input_grad[1]:
            rest = y.new_zeros(()) if below is None else below
            below = torch.addcdiv(rest, above * out, _flat_at_zero(y), value=-0.5)
        return above, below, None

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, above: Tensor | None, below: Tensor | None, _: None) -> Any:
        out, y = ctx.saved_tensors
        dy = torch.zeros_like(y) if below is None else below / _twice(y)
        change = -(out * dy) if above is None else above - out * dy
        return change / (y + ctx.eps), dy

    @staticmethod
    def vmap(info: Any, in_dims: Any, numerator: Tensor, square: Tensor, eps: float) -> Any:
        pair = zip((numerator, square), in_dims, strict=False)
        apart = (
            x.expand(info.batch_size, *x.shape) if d is None else x.movedim(d, 0) for x, d in pair
        )
        return _Quotient.apply(*apart, eps), (0, 0)


class _RecordedQuotient(torch.autograd.Function):
    """The same without ``torch.func``, see ``_RecordedRoot``."""

    backward = staticmethod(_Quotient.backward)
    jvp = staticmethod(_Quotient.jvp)

    @staticmethod
    def forward(ctx: Any, numerator: Tensor, square: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        output = _Quotient.forward(numerator, square, eps)
        _keep(ctx, output, eps)
        return output


def _keep(ctx: Any, output: tuple[Tensor, Tensor], eps: float) -> None:
    ctx.save_for_backward(*output)
    ctx.save_for_forward(*output)
    ctx.set_materialize_grads(False)
    ctx.eps = eps


def angle(y: Tensor, x: Tensor) -> Tensor:
    """``atan2(y, x)`` for x >= 0, with a finite derivative where both are zero.

    >>> import torch
    >>> from gradtx.core.roots import angle
    >>> torch.func.grad(lambda y: angle(y, y * 0))(torch.tensor(0.0))
    tensor(1.)
    """
    if is_watched(y, x):
        x = torch.where((y == 0) & (x == 0), 1.0, x)
    return in_parts(torch.atan2, y, x)


def clipping(square: Tensor, bound: float | Tensor) -> Tensor:
    """``min(1, bound / sqrt(square))``, the factor that takes a norm down to a bound; 1 for 0 / 0.

    >>> import torch
    >>> from gradtx.core.roots import clipping
    >>> clipping(torch.tensor([0.0, 1.0, 16.0]), 2.0)
    tensor([1.0000, 1.0000, 0.5000])
    """
    low = square.sqrt() <= bound
    return torch.where(low, 1.0, bound / torch.where(low, torch.ones_like(square), square).sqrt())
