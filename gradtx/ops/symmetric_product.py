"""The operator ``gradtx::symmetric_product``: products of which one knows that they are symmetric.

    symmetric_product(Tensor x, Tensor y, Tensor? c, float beta, float alpha, bool mixed) -> Tensor

What lies on and above the diagonal is mirrored. The kernel multiplies nothing else, in about half
the time; the reference makes torch's product. Sums are in float32 and rounded once. Factors
multiply sums, zero times infinity is NaN, but with beta = 0 nothing that c holds matters.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import gradtx_cuda
from gradtx.core.autocast import outside_autocast
from gradtx.core.forward import forward_rule
from gradtx.core.watch import is_traced, is_watched
from gradtx.ops.registry import (
    NAMESPACE,
    Op,
    applied,
    operator,
    require_together,
    single,
)

__all__ = ["has_mixed_products", "product", "symmetric_product"]

_ARGUMENTS = "(Tensor x, Tensor y, Tensor? c, float beta, float alpha, bool mixed) -> Tensor"
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


_LARGE = 1 << 16  # elements of a matrix
_VECTOR = 64  # bytes of the widest registers


def _native() -> frozenset[torch.dtype]:
    """Dtypes of half precision in which this processor has products for torch to call."""
    if not torch.backends.mkldnn.is_available():
        return frozenset()
    mkldnn = torch.ops.mkldnn
    found = {
        torch.bfloat16: mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: mkldnn._is_mkldnn_fp16_supported(),
    }
    return frozenset(dtype for dtype, there in found.items() if there)


_NATIVE = _native()


def has_mixed_products(x: Tensor) -> bool:
    """Whether ``mixed`` products on this tensor's device are as fast as those of bfloat16."""
    return (
        x.device.type == "cpu"
        and gradtx_cuda.status().active
        and torch.cpu._is_avx512_bf16_supported()
        and not torch.cpu._is_amx_tile_supported()
        and not torch.compiler.is_compiling()
    )


def product(
    x: Tensor, y: Tensor, c: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0
) -> Tensor:
    """``beta c + alpha x y`` for batches of any matrices."""
    alpha, beta = single(alpha, x.dtype), single(beta, x.dtype)
    if c is not None and not (alpha and math.isfinite(alpha)):
        out = product(x, y, None, alpha=alpha)
        return out if beta == 0 else out + beta * c
    half = x.device.type == "cpu" and x.dtype.itemsize < 4
    if half and x.dtype not in _NATIVE:  # torch's own loops are up to ninety times slower than this
        wide = None if c is None else c.float()
        return product(x.float(), y.float(), wide, beta, alpha).to(x.dtype)
    if half and (x.shape[0] == 1 or x.shape[1:].numel() >= _LARGE):
        return _one_by_one(x, y, c, beta, alpha)
    moved = x.device.type == "cpu" and not half and not is_traced() and not is_watched(x, y, c)
    if moved and (_is_odd(x) or _is_odd(y) or (len(x) > 1 and _is_odd(x, y.shape[2]))):
        return _at_vectors(x, y, c, beta, alpha)
    if c is None:
        return _scaled(torch.bmm(x, y), alpha)  # (batch, n, n) of (batch, n, k), (batch, k, n)
    return torch.baddbmm(c, x, y, beta=beta, alpha=alpha)


def _is_odd(x: Tensor, columns: int | None = None) -> bool:
    """Whether a matrix of a stack, or of one with other columns, begins where no vector does."""
    if columns is not None:
        return x.shape[1] * columns * x.itemsize % _VECTOR != 0
    step = x.stride(0) if len(x) > 1 else 0
    return any(n * x.itemsize % _VECTOR for n in (x.storage_offset(), step))


def _at_vectors(x: Tensor, y: Tensor, c: Tensor | None, beta: float, alpha: float) -> Tensor:
    """The same with matrices where vectors begin: the order of sums depends on their addresses."""
    out = _spaced(len(x), x.shape[1], y.shape[2], x)
    if c is None:
        torch.bmm(_moved(x), _moved(y), out=out)
        return _scaled(out.contiguous(), alpha)
    torch.baddbmm(c, _moved(x), _moved(y), beta=beta, alpha=alpha, out=out)
    return out.contiguous()


def _moved(x: Tensor) -> Tensor:
    """A copy of a stack in such memory, rows or columns in one piece as they were."""
    if x.stride(2) != 1 and x.stride(1) == 1:
        return _moved(x.mT).mT
    return _spaced(len(x), x.shape[1], x.shape[2], x).copy_(x)


def _spaced(batch: int, rows: int, columns: int, like: Tensor) -> Tensor:
    """Memory for a stack of matrices each of which begins where a vector may."""
    vector = _VECTOR // like.itemsize
    step = -(-rows * columns // vector) * vector
    whole = like.new_empty(batch * step)
    return whole.as_strided((batch, rows, columns), (step, columns, 1))


def _one_by_one(x: Tensor, y: Tensor, c: Tensor | None, beta: float, alpha: float) -> Tensor:
    """The same: in half precision torch's own batches are slow, of one or of large matrices."""
    if is_watched(x, y, c):
        if c is None:
            return _scaled(torch.stack([torch.mm(a, b) for a, b in zip(x, y, strict=True)]), alpha)
        each = zip(c, x, y, strict=True)
        return torch.stack([torch.addmm(*of, beta=beta, alpha=alpha) for of in each])
    out = x.new_empty((*x.shape[:2], y.shape[2]))
    for i in range(x.shape[0]):
        if c is None:
            torch.mm(x[i], y[i], out=out[i])
        else:
            torch.addmm(c[i], x[i], y[i], beta=beta, alpha=alpha, out=out[i])
    return _scaled(out, alpha) if c is None else out


def _scaled(x: Tensor, alpha: float) -> Tensor:
    return x if alpha == 1.0 else alpha * x


def _check(x: Tensor, y: Tensor, c: Tensor | None, mixed: bool) -> None:
    shapes = [tuple(t.shape) for t in (x, y)]
    if x.ndim != 3 or y.ndim != 3 or shapes[0] != (y.shape[0], y.shape[2], y.shape[1]):
        raise ValueError(
            "symmetric_product: x and y must have the shapes (batch, n, k) and (batch, k, n), got "
            f"{shapes[0]} and {shapes[1]}"
        )
    if c is not None and tuple(c.shape) != (x.shape[0], x.shape[1], x.shape[1]):
        raise ValueError(
            f"symmetric_product: c must have the shape (batch, n, n) of the result of x "
            f"{shapes[0]}, got {tuple(c.shape)}"
        )
    known = (torch.float32, torch.bfloat16) if mixed else (x.dtype,)
    given = [t.dtype for t in (x, y, c) if t is not None]
    if not x.is_floating_point() or any(dtype not in known for dtype in given):
        rule = "each in float32 or bfloat16" if mixed else "of one floating dtype"
        raise ValueError(f"symmetric_product: x, y and c must be {rule}, got {given}")
    require_together("symmetric_product", x, y, c)


def _fake(x: Tensor, y: Tensor, c: Tensor | None, beta: float, alpha: float, mixed: bool) -> Tensor:
    _check(x, y, c, mixed)
    dtype = torch.float32 if mixed else x.dtype
    return x.new_empty((x.shape[0], x.shape[1], x.shape[1]), dtype=dtype)


def _batch(info: Any, in_dims: tuple[Any, ...], tensors: tuple[Tensor | None, ...]) -> Any:
    """Examples of batches as one batch, and what takes the result apart."""

    def joined(t: Tensor | None, dim: int | None) -> Tensor | None:
        if t is None:
            return None
        t = t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        return t.flatten(0, 1)

    parts = [joined(t, dim) for t, dim in zip(tensors, in_dims, strict=False)]
    return parts, lambda out: (out.unflatten(0, (info.batch_size, -1)), 0)


def _vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
    parts, apart = _batch(info, in_dims, args[:3])
    return apart(_symmetric_product(*parts, *args[3:]))


def _reference(
    x: Tensor, y: Tensor, c: Tensor | None, beta: float, alpha: float, mixed: bool
) -> Tensor:
    if mixed:
        x, y = (t.to(torch.bfloat16).float() for t in (x, y))
        c = None if c is None else c.float()
    upper = product(x, y, c, beta, alpha).triu()  # halves that differ let iterations diverge
    return upper + upper.triu(1).mT


@operator("symmetric_product" + _ARGUMENTS, fake=_fake, vmap=_vmap)
def _symmetric_product(
    x: Tensor, y: Tensor, c: Tensor | None, beta: float, alpha: float, mixed: bool
) -> Tensor:
    """See the module's text; ``mixed`` rounds x and y to bfloat16 and the result to float32."""
    _check(x, y, c, mixed)
    return _reference(x, y, c, beta, alpha, mixed)


# Where the kernel has no instructions for a dtype it calls this.
_ON_ITS_OWN = Op("symmetric_product_reference" + _ARGUMENTS, _reference, _fake, _vmap)
_ON_ITS_OWN.define(_LIBRARY)


class _Product(torch.autograd.Function):
    """The operator for automatic differentiation, as the product that it is."""

    @staticmethod
    def forward(
        x: Tensor, y: Tensor, c: Tensor | None, beta: float, alpha: float, mixed: bool
    ) -> Tensor:
        return _symmetric_product(x, y, c, beta, alpha, mixed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, y, c, ctx.beta, ctx.alpha, _ = inputs
        ctx.dtype, ctx.c_dtype = output.dtype, None if c is None else c.dtype
        ctx.save_for_backward(x, y)
        ctx.save_for_forward(x, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        wide_x, wide_y = x.to(grad.dtype), y.to(grad.dtype)
        for_x = (ctx.alpha * product(grad, wide_y.mT)).to(x.dtype)
        for_y = (ctx.alpha * product(wide_x.mT, grad)).to(y.dtype)
        for_c = None if ctx.c_dtype is None else (ctx.beta * grad).to(ctx.c_dtype)
        return for_x, for_y, for_c, None, None, None

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, dx: Tensor | None, dy: Tensor | None, dc: Tensor | None, *_: Any) -> Any:
        x, y = (t.to(ctx.dtype) for t in ctx.saved_tensors)
        terms = [] if dc is None else [ctx.beta * dc.to(ctx.dtype)]
        terms += [] if dx is None else [ctx.alpha * product(dx.to(ctx.dtype), y)]
        terms += [] if dy is None else [ctx.alpha * product(x, dy.to(ctx.dtype))]
        return sum(terms)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        parts, apart = _batch(info, in_dims, args[:3])
        return apart(_Product.apply(*parts, *args[3:]))


@outside_autocast
def symmetric_product(
    x: Tensor,
    y: Tensor,
    c: Tensor | None = None,
    beta: float = 1.0,
    alpha: float = 1.0,
    mixed: bool = False,
) -> Tensor:
    """``beta c + alpha x y`` of which one knows that it is symmetric; differentiable.

    Products of float32 and bfloat16 on the CPU take about half the time of others. What lies below
    the diagonal of x y and of c may not be looked at.

    Args:
        x: floating tensor (batch, n, k).
        y: (batch, k, n), of x's dtype; the fastest is ``x.mT``.
        c: (batch, n, n), symmetric, of x's dtype; not looked at where beta is 0.
        beta: factor of c.
        alpha: factor of the product.
        mixed: multiply in bfloat16, to which x and y are rounded, and give float32; each of x, y
            and c may be in either.

    Raises:
        ValueError: other shapes or dtypes.

    >>> import torch, gradtx as gx
    >>> x = torch.tensor([[[1.0, 2.0], [0.0, 3.0]]])
    >>> gx.ops.symmetric_product(x, x.mT, torch.eye(2)[None], beta=10.0)
    tensor([[[15.,  6.],
             [ 6., 19.]]])
    """
    _check(x, y, c, mixed)
    if torch.compiler.is_compiling():
        return _reference(x, y, c, beta, alpha, mixed)
    return applied(_Product, x, y, c, beta, alpha, mixed)
