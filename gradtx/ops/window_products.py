"""Products with a window of vectors: ``window_dots``, ``sparse_window_dots``, ``..._combine``.

    window_dots(Tensor rows, Tensor x) -> Tensor
    sparse_window_dots(Tensor indices, Tensor values, Tensor x,
                       SymInt block_size, SymInt k) -> Tensor
    sparse_window_combine(Tensor indices, Tensor values, Tensor weights, SymInt numel,
                          SymInt block_size, SymInt k) -> Tensor

The dots are the inner products of every row with the vector x, float64 (rows,), every product and
every sum in float64. The combination is ``sum_i weights[i] * row_i`` (numel,) with float64 weights;
a weight times a value is rounded to float32 (float64 where the values are), and rows are added in
the order 0, 1, 2, ... in that dtype.

Rows are dense, (rows, numel), or they are given by the entries that are not zero, as
``gradtx::block_top_k`` orders them: column c of `indices` and `values`, both (rows, kept), is the
position ``(c // k) * block_size + indices[i, c]``. No position occurs twice in a row whose values
are not zero. An index that points out of its block is an error on the CPU and left out on other
devices, which cannot tell without waiting.

The functions here are differentiable in everything but indices; the bare operators are constants.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradtx.core.forward import forward_rule
from gradtx.ops.block_top_k import column_starts
from gradtx.ops.registry import applied, operator, require_together

__all__ = ["sparse_window_combine", "sparse_window_dots", "window_dots"]

_VALUES = (torch.float32, torch.bfloat16, torch.float64, torch.float16)
_WIDE = (torch.float32, torch.float64)
_INDICES = (torch.int16, torch.int32, torch.int64)
_PIECE = 1 << 22  # elements that are there in float64 at once


def _check_rows(name: str, rows: Tensor, x: Tensor) -> None:
    if rows.ndim != 2 or x.ndim != 1 or rows.shape[1] != x.shape[0]:
        raise ValueError(
            f"{name}: rows must be (m, n) and x (n,), got {tuple(rows.shape)} and {tuple(x.shape)}"
        )
    if rows.dtype not in _VALUES or x.dtype not in _WIDE:
        raise ValueError(
            f"{name}: rows must be one of {_VALUES} and x of {_WIDE}, got {rows.dtype}, {x.dtype}"
        )
    require_together(name, rows, x)


def _check_sparse(
    name: str, indices: Tensor, values: Tensor, other: Tensor, numel: int, block: int, k: int
) -> None:
    if indices.ndim != 2 or indices.shape != values.shape:
        raise ValueError(
            f"{name}: indices and values must be matrices of one shape, got "
            f"{tuple(indices.shape)} and {tuple(values.shape)}"
        )
    if indices.dtype not in _INDICES:
        raise ValueError(f"{name}: indices must be one of {_INDICES}, got {indices.dtype}")
    if values.dtype not in _VALUES or other.dtype not in _WIDE:
        raise ValueError(
            f"{name}: values must be one of {_VALUES} and the vector of {_WIDE}, got "
            f"{values.dtype}, {other.dtype}"
        )
    require_together(name, indices, values, other)
    if numel < 0 or block < 1 or k < 1:
        raise ValueError(
            f"{name}: numel must be >= 0, block_size and k >= 1, got {numel}, {block} and {k}"
        )
    columns = indices.shape[1]
    if (columns + k - 1) // k > (numel + block - 1) // block:
        raise ValueError(
            f"{name}: {columns} entries of a row, {k} a block, do not fit {numel} elements in "
            f"blocks of {block}"
        )


def _places(name: str, indices: Tensor, numel: int, block: int, k: int) -> tuple[Tensor, Tensor]:
    """Positions in the vector, and which of them point into their block."""
    starts = column_starts(indices, block, k)
    inside = (indices >= 0) & (indices < (numel - starts).clamp(max=min(block, numel)))
    if indices.device.type == "cpu" and not inside.all():
        raise ValueError(f"{name}: an index points out of its block")
    return torch.where(inside, indices, 0).to(torch.int64) + starts, inside


def _sum_dtype(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


# -- dense rows --------------------------------------------------------------------------------


def _dots_fake(rows: Tensor, x: Tensor) -> Tensor:
    _check_rows("window_dots", rows, x)
    return rows.new_empty(rows.shape[0], dtype=torch.float64)


@operator("window_dots(Tensor rows, Tensor x) -> Tensor", fake=_dots_fake)
def _window_dots(rows: Tensor, x: Tensor) -> Tensor:
    _check_rows("window_dots", rows, x)
    out = rows.new_zeros(rows.shape[0], dtype=torch.float64)
    piece = max(_PIECE // max(rows.shape[0], 1), 1)
    for some, part in zip(rows.split(piece, 1), x.split(piece), strict=True):
        out += some.double() @ part.double()  # (m, piece) (piece,)
    return out


class _WindowDots(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, x: Tensor) -> Tensor:
        return _window_dots(rows, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Any, ...]:
        rows, x = ctx.saved_tensors
        d = d.to(_sum_dtype(rows))
        return (d[:, None] * x).to(rows.dtype), (d @ rows.to(d.dtype)).to(x.dtype)

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, d_rows: Any, d_x: Any) -> Tensor:
        rows, x = ctx.saved_tensors
        out = rows.new_zeros(rows.shape[0], dtype=torch.float64)
        out = out if d_rows is None else out + d_rows.double() @ x.double()
        return out if d_x is None else out + rows.double() @ d_x.double()


def window_dots(rows: Tensor, x: Tensor) -> Tensor:
    """Inner products of every row with a vector, in float64.

    Args:
        rows: (m, n), float32, float64 or a narrower dtype.
        x: (n,), float32 or float64.

    Returns:
        float64 (m,).

    Raises:
        ValueError: shapes or dtypes do not fit.

    >>> import torch, gradtx as gx
    >>> gx.ops.window_dots(torch.eye(2), torch.tensor([3.0, 4.0]))
    tensor([3., 4.], dtype=torch.float64)
    """
    wanted = rows.requires_grad or x.requires_grad
    if torch.compiler.is_compiling() and not wanted:
        return _window_dots(rows, x)
    return applied(_WindowDots, rows, x)


# -- sparse rows -------------------------------------------------------------------------------


def _sparse_dots_fake(indices: Tensor, values: Tensor, x: Tensor, block: int, k: int) -> Tensor:
    if x.ndim != 1:
        raise ValueError(f"sparse_window_dots: x must be flat, got shape {tuple(x.shape)}")
    _check_sparse("sparse_window_dots", indices, values, x, x.shape[0], block, k)
    return values.new_empty(values.shape[0], dtype=torch.float64)


@operator(
    "sparse_window_dots(Tensor indices, Tensor values, Tensor x, SymInt block_size, SymInt k)"
    " -> Tensor",
    fake=_sparse_dots_fake,
)
def _sparse_window_dots(
    indices: Tensor, values: Tensor, x: Tensor, block_size: int, k: int
) -> Tensor:
    _sparse_dots_fake(indices, values, x, block_size, k)
    where, inside = _places("sparse_window_dots", indices, x.shape[0], block_size, k)
    if not where.numel():
        return values.new_zeros(values.shape[0], dtype=torch.float64)
    kept = torch.where(inside, values, 0).double()
    return (kept * x.double()[where]).sum(1)


def _combine_fake(
    indices: Tensor, values: Tensor, weights: Tensor, numel: int, block: int, k: int
) -> Tensor:
    name = "sparse_window_combine"
    if weights.shape != indices.shape[:1] or weights.dtype != torch.float64:
        raise ValueError(
            f"{name}: weights must be float64 of shape ({indices.shape[0]},), got "
            f"{weights.dtype} {tuple(weights.shape)}"
        )
    _check_sparse(name, indices, values, weights, numel, block, k)
    return values.new_empty(numel, dtype=_sum_dtype(values))


@operator(
    "sparse_window_combine(Tensor indices, Tensor values, Tensor weights, SymInt numel, "
    "SymInt block_size, SymInt k) -> Tensor",
    fake=_combine_fake,
)
def _sparse_window_combine(
    indices: Tensor, values: Tensor, weights: Tensor, numel: int, block_size: int, k: int
) -> Tensor:
    _combine_fake(indices, values, weights, numel, block_size, k)
    where, inside = _places("sparse_window_combine", indices, numel, block_size, k)
    kept = torch.where(inside, values, 0).to(_sum_dtype(values))
    out = kept.new_zeros(numel)
    for row, value, weight in zip(where, kept, weights, strict=True):
        out.index_add_(0, row, weight.to(kept.dtype) * value)
    return out


class _SparseDots(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return _sparse_window_dots(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.save_for_forward(*inputs[:3])
        ctx.geometry = inputs[3:]

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Any, ...]:
        indices, values, x = ctx.saved_tensors
        where = indices.to(torch.int64) + column_starts(indices, *ctx.geometry)
        d_values = d[:, None] * x[where]
        d_x = sparse_window_combine(indices, values, d.double(), x.shape[0], *ctx.geometry)
        return None, d_values.to(values.dtype), d_x.to(x.dtype), None, None

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: Any, d_values: Any, d_x: Any, *rest: Any) -> Tensor:
        indices, values, x = ctx.saved_tensors
        where = indices.to(torch.int64) + column_starts(indices, *ctx.geometry)
        out = values.new_zeros(values.shape[0], dtype=torch.float64)
        out = out if d_values is None else out + (d_values.double() * x[where]).sum(1)
        return out if d_x is None else out + (values.double() * d_x[where]).sum(1)


class _SparseCombine(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return _sparse_window_combine(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.save_for_forward(*inputs[:3])
        ctx.numel, *ctx.geometry = inputs[3:]

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Any, ...]:
        indices, values, weights = ctx.saved_tensors
        where = indices.to(torch.int64) + column_starts(indices, *ctx.geometry)
        d_values = (weights[:, None] * d[where]).to(values.dtype)
        return None, d_values, sparse_window_dots(indices, values, d, *ctx.geometry), *[None] * 3

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: Any, d_values: Any, d_weights: Any, *rest: Any) -> Tensor:
        indices, values, weights = ctx.saved_tensors
        dtype = _sum_dtype(values)
        each = torch.zeros_like(values, dtype=torch.float64)
        each = each if d_values is None else each + weights[:, None] * d_values
        each = each if d_weights is None else each + d_weights[:, None] * values
        where = indices.to(torch.int64) + column_starts(indices, *ctx.geometry)
        zeros = values.new_zeros(ctx.numel, dtype=dtype)
        return zeros.index_add(0, where.reshape(-1), each.to(dtype).reshape(-1))


def sparse_window_dots(
    indices: Tensor, values: Tensor, x: Tensor, block_size: int, k: int
) -> Tensor:
    """Inner products of sparse rows with a vector, in float64.

    Args:
        indices: integers (m, kept), positions inside their block.
        values: (m, kept).
        x: (n,), float32 or float64.
        block_size: elements of a block of x.
        k: entries that every full block keeps.

    Returns:
        float64 (m,).

    Raises:
        ValueError: shapes or dtypes do not fit.

    >>> import torch, gradtx as gx
    >>> indices, values = torch.tensor([[1], [0]]), torch.tensor([[3.0], [2.0]])
    >>> gx.ops.sparse_window_dots(indices, values, torch.tensor([10.0, 1.0]), 2, 1)
    tensor([ 3., 20.], dtype=torch.float64)
    """
    if torch.compiler.is_compiling() and not (values.requires_grad or x.requires_grad):
        return _sparse_window_dots(indices, values, x, block_size, k)
    return applied(_SparseDots, indices, values, x, block_size, k)


def sparse_window_combine(
    indices: Tensor, values: Tensor, weights: Tensor, numel: int, block_size: int, k: int
) -> Tensor:
    """A weighted sum of sparse rows as a dense vector.

    Args:
        indices: integers (m, kept), positions inside their block.
        values: (m, kept).
        weights: float64 (m,).
        numel: elements n of the vector.
        block_size: elements of a block of the vector.
        k: entries that every full block keeps.

    Returns:
        (n,), float32 or float64.

    Raises:
        ValueError: shapes or dtypes do not fit.

    >>> import torch, gradtx as gx
    >>> indices, values = torch.tensor([[1], [0]]), torch.tensor([[3.0], [2.0]])
    >>> weights = torch.tensor([0.5, 1.0], dtype=torch.float64)
    >>> gx.ops.sparse_window_combine(indices, values, weights, 2, 2, 1)
    tensor([2.0000, 1.5000])
    """
    args = (indices, values, weights, numel, block_size, k)
    if torch.compiler.is_compiling() and not (values.requires_grad or weights.requires_grad):
        return _sparse_window_combine(*args)
    return applied(_SparseCombine, *args)
