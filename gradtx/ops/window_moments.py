"""The operator ``gradtx::window_moments``: two moments of a window of sparse rows.

    window_moments(Tensor indices, Tensor values, Tensor weights1, Tensor weights2,
                   SymInt numel, SymInt block_size, SymInt k) -> (Tensor first, Tensor second)

Row i of `indices` and `values`, both of shape (rows, kept), holds the entries of a flat tensor of
`numel` elements that are not zero, as ``gradtx::block_top_k`` orders them: column c is the position
``(c // k) * block_size + indices[i, c]``. With float32 or float64 weights of shape (rows,)

    first  = sum_i weights1[i] * scatter(values[i])
    second = sum_i weights2[i] * scatter(values[i]**2)

in the dtype of the weights, every operation rounded, rows added in the order 0, 1, 2, ... Both
have shape (numel,). No position occurs twice in a row whose weights are not zero. An index that
points out of its block is an error on the CPU and left out on other devices, which cannot tell
without waiting. `window_moments` here is differentiable with respect to
values and weights; the bare operator is a constant.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradtx.core.forward import forward_rule
from gradtx.ops.block_top_k import column_starts
from gradtx.ops.registry import applied, operator

__all__ = ["window_moments"]

_VALUE_DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.float16)
_INDEX_DTYPES = (torch.int16, torch.int32, torch.int64)
_WEIGHT_DTYPES = (torch.float32, torch.float64)


def _check(
    indices: Tensor,
    values: Tensor,
    weights1: Tensor,
    weights2: Tensor,
    numel: int,
    block_size: int,
    k: int,
) -> None:
    name = "window_moments"
    if indices.ndim != 2 or indices.shape != values.shape:
        raise ValueError(
            f"{name}: indices and values must be matrices of one shape, got "
            f"{tuple(indices.shape)} and {tuple(values.shape)}"
        )
    if values.dtype not in _VALUE_DTYPES:
        raise ValueError(f"{name}: values must be one of {_VALUE_DTYPES}, got {values.dtype}")
    if indices.dtype not in _INDEX_DTYPES:
        raise ValueError(f"{name}: indices must be one of {_INDEX_DTYPES}, got {indices.dtype}")
    for w in (weights1, weights2):
        if w.shape != indices.shape[:1]:
            raise ValueError(
                f"{name}: weights must have shape ({indices.shape[0]},), got {tuple(w.shape)}"
            )
        if w.dtype not in _WEIGHT_DTYPES or w.dtype != weights1.dtype:
            raise ValueError(f"{name}: weights must both be float32 or float64, got {w.dtype}")
    for x in (values, weights1, weights2):
        if x.device != indices.device:
            raise ValueError(
                f"{name}: all tensors must share a device, got {indices.device} and {x.device}"
            )
    if numel < 0 or block_size < 1 or k < 1:
        raise ValueError(
            f"{name}: numel must be >= 0, block_size and k >= 1, got {numel}, {block_size} and {k}"
        )
    columns = indices.shape[1]
    if (columns + k - 1) // k > (numel + block_size - 1) // block_size:
        raise ValueError(
            f"{name}: {columns} entries of a row, {k} a block, do not fit {numel} elements in "
            f"blocks of {block_size}"
        )


def _fake(
    indices: Tensor,
    values: Tensor,
    weights1: Tensor,
    weights2: Tensor,
    numel: int,
    block_size: int,
    k: int,
) -> tuple[Tensor, Tensor]:
    _check(indices, values, weights1, weights2, numel, block_size, k)
    return weights1.new_empty(numel), weights1.new_empty(numel)


@operator(
    "window_moments(Tensor indices, Tensor values, Tensor weights1, Tensor weights2, "
    "SymInt numel, SymInt block_size, SymInt k) -> (Tensor first, Tensor second)",
    fake=_fake,
)
def _window_moments(
    indices: Tensor,
    values: Tensor,
    weights1: Tensor,
    weights2: Tensor,
    numel: int,
    block_size: int,
    k: int,
) -> tuple[Tensor, Tensor]:
    _check(indices, values, weights1, weights2, numel, block_size, k)
    inside = within(indices, numel, block_size, k)
    if indices.device.type == "cpu" and not inside.all():
        raise ValueError("window_moments: an index points out of its block")
    return sums(indices, values, weights1, weights2, numel, block_size, k, inside)


def within(indices: Tensor, numel: int, block_size: int, k: int) -> Tensor:
    """Which indices point into their block."""
    rest = numel - column_starts(indices, block_size, k)
    return (indices >= 0) & (indices < rest.clamp(max=min(block_size, numel)))


def sums(
    indices: Tensor,
    values: Tensor,
    weights1: Tensor,
    weights2: Tensor,
    numel: int,
    block_size: int,
    k: int,
    there: Tensor,
) -> tuple[Tensor, Tensor]:
    """The moments of the entries that are ``there``; the others count for nothing."""
    first, second = weights1.new_zeros(numel), weights1.new_zeros(numel)
    where = _positions(torch.where(there, indices, 0), block_size, k)
    values = torch.where(there, values, 0).to(weights1.dtype)
    for row, value, w1, w2 in zip(where, values, weights1, weights2, strict=True):
        first.index_add_(0, row, w1 * value)
        second.index_add_(0, row, w2 * (value * value))
    return first, second


def _positions(indices: Tensor, block_size: int, k: int) -> Tensor:
    return indices.to(torch.int64) + column_starts(indices, block_size, k)


class _WindowMoments(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor]:
        return _window_moments(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.save_for_forward(*inputs[:4])
        ctx.numel, *ctx.geometry = inputs[4:]

    @staticmethod
    def backward(ctx: Any, d_first: Tensor, d_second: Tensor) -> tuple[Any, ...]:
        indices, values, weights1, weights2 = ctx.saved_tensors
        where = _positions(indices, *ctx.geometry)
        d1, d2, v = d_first[where], d_second[where], values.to(weights1.dtype)
        d_values = weights1[:, None] * d1 + 2 * weights2[:, None] * v * d2
        d_weights = ((v * d1).sum(1), (v * v * d2).sum(1))
        return None, d_values.to(values.dtype), *d_weights, None, None, None

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: Any, d: Any, d1: Any, d2: Any, *rest: Any) -> tuple[Tensor, Tensor]:
        indices, values, weights1, weights2 = ctx.saved_tensors
        v = values.to(weights1.dtype)
        first, second = torch.zeros_like(v), torch.zeros_like(v)
        if d is not None:
            first = first + weights1[:, None] * d
            second = second + 2 * weights2[:, None] * v * d
        first = first if d1 is None else first + d1[:, None] * v
        second = second if d2 is None else second + d2[:, None] * v * v
        where = _positions(indices, *ctx.geometry).reshape(-1)
        zeros = v.new_zeros(ctx.numel)
        outs = [zeros.index_add(0, where, term.reshape(-1)) for term in (first, second)]
        return outs[0], outs[1]


def window_moments(
    indices: Tensor,
    values: Tensor,
    weights1: Tensor,
    weights2: Tensor,
    numel: int,
    block_size: int,
    k: int,
) -> tuple[Tensor, Tensor]:
    """Two weighted moments of a window of sparse rows, without the rows as dense tensors.

    Args:
        indices: integers (rows, kept), positions inside their block.
        values: (rows, kept).
        weights1: float32 or float64 (rows,), for the first moment.
        weights2: the same for the second moment.
        numel: number of elements of the dense tensors.
        block_size: elements of a block.
        k: entries that every full block keeps.

    Raises:
        ValueError: shapes or dtypes do not fit.

    >>> import torch, gradtx as gx
    >>> indices, values = torch.tensor([[1], [0]]), torch.tensor([[3.0], [2.0]])
    >>> gx.ops.window_moments(indices, values, torch.tensor([0.5, 1.0]), torch.ones(2), 2, 2, 1)
    (tensor([2.0000, 1.5000]), tensor([4., 9.]))
    """
    args = (indices, values, weights1, weights2, numel, block_size, k)
    wanted = any(x.requires_grad for x in (values, weights1, weights2))
    if torch.compiler.is_compiling() and not wanted:
        return _window_moments(*args)
    return applied(_WindowMoments, *args)
