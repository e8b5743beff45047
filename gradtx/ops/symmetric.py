"""The operators ``gradtx::quantize_symmetric`` and ``gradtx::dequantize_symmetric``.

    quantize_symmetric(Tensor x, int bits, int block_size, bool stochastic, Tensor? key,
                       ScalarType scale_dtype) -> (Tensor codes, Tensor scale)
    dequantize_symmetric(Tensor codes, Tensor scale, int bits, int block_size, SymInt numel,
                         ScalarType dtype) -> Tensor

A tensor is flattened row-major and cut into blocks of `block_size` elements, the last one shorter.
With ``Q = 2**(bits - 1) - 1`` a block stores one step s, and

    s = max|x| / Q
    c = round(x / s), clamped to [-Q, Q]; 0 where s = 0
    x ≈ c * s

all in float32, rounding after every operation, halves to even. Zero is always exact. The codes are
stored as ``c + Q + 1`` and packed into bytes, first element in the highest bits; unused bits of the
last byte are 0. With `stochastic` c is ``floor(x / s)`` plus the carry of its fractional part and
``uniform(key)`` at the element's flat index, and s is rounded up to `scale_dtype` (otherwise to
nearest), so that decoded values are unbiased. A block with a NaN or an infinity decodes to NaN in
every element. Both operators are constants for automatic differentiation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradtx.core.random import uniform
from gradtx.ops.affine import (
    _BITS,
    _check_stats_dtype,
    _num_blocks,
    _num_bytes,
    _pack,
    _round_down,
    _to_blocks,
    _unpack,
    check_key,
)
from gradtx.ops.packed_blocks import check_format, foldable
from gradtx.ops.registry import map_examples, operator, require_together

__all__ = ["dequantize_symmetric", "quantize_symmetric"]


def _fake_quantize(
    x: Tensor,
    bits: int,
    block_size: int,
    stochastic: bool,
    key: Tensor | None,
    scale_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    name = "quantize_symmetric"
    check_format(name, bits, _BITS, block_size)
    if not x.is_floating_point():
        raise ValueError(f"{name}: x must have a floating dtype, got {x.dtype}")
    _check_stats_dtype(name, scale_dtype, "scale")
    check_key(name, x, stochastic, key)
    return (
        x.new_empty(_num_bytes(x.numel(), bits), dtype=torch.uint8),
        x.new_empty(_num_blocks(x.numel(), block_size), dtype=scale_dtype),
    )


def _fake_dequantize(
    codes: Tensor, scale: Tensor, bits: int, block_size: int, numel: int, dtype: torch.dtype
) -> Tensor:
    name = "dequantize_symmetric"
    check_format(name, bits, _BITS, block_size)
    if codes.dtype != torch.uint8 or codes.shape != (_num_bytes(numel, bits),):
        raise ValueError(
            f"{name}: codes must be uint8 of shape ({_num_bytes(numel, bits)},) for {numel} "
            f"elements of {bits} bits, got {codes.dtype} of shape {tuple(codes.shape)}"
        )
    if scale.shape != (_num_blocks(numel, block_size),):
        raise ValueError(
            f"{name}: scale must have shape ({_num_blocks(numel, block_size)},) for {numel} "
            f"elements in blocks of {block_size}, got {tuple(scale.shape)}"
        )
    require_together(name, codes, scale)
    return codes.new_empty(numel, dtype=dtype)


def _vmap_quantize(
    info: Any, in_dims: tuple[Any, ...], x: Tensor, bits: int, block_size: int, *args: Any
) -> tuple[Any, Any]:
    stochastic = args[0]
    if not stochastic and in_dims[0] is not None:
        x = x.movedim(in_dims[0], 0)
        in_dims = (0, *in_dims[1:])
        if foldable(x[0].numel(), bits, block_size):
            outputs = quantize_symmetric(x, bits, block_size, *args)
            return tuple(out.reshape(info.batch_size, -1) for out in outputs), (0, 0)
    return map_examples(quantize_symmetric, info, in_dims, x, bits, block_size, *args)


@operator(
    "quantize_symmetric(Tensor x, int bits, int block_size, bool stochastic, Tensor? key, "
    "ScalarType scale_dtype) -> (Tensor codes, Tensor scale)",
    fake=_fake_quantize,
    vmap=_vmap_quantize,
)
def quantize_symmetric(
    x: Tensor,
    bits: int,
    block_size: int,
    stochastic: bool,
    key: Tensor | None,
    scale_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Quantise a tensor block by block; see the module's text."""
    empty = _fake_quantize(x, bits, block_size, stochastic, key, scale_dtype)
    numel = x.numel()
    if numel == 0:
        return empty
    top = 2 ** (bits - 1) - 1
    values = _to_blocks(x.reshape(-1).to(torch.float32), block_size)
    step = values.abs().amax(1) / top
    step = torch.where(step.isfinite(), step, torch.nan)
    scale = -_round_down(-step, scale_dtype) if stochastic else step.to(scale_dtype)
    level = (values / scale.to(torch.float32)[:, None]).nan_to_num(nan=0.0).clamp(-top, top)
    if key is None:
        level = torch.round(level)
    else:
        below = torch.floor(level)
        rho = _to_blocks(uniform(key, (numel,)), block_size)
        level = below + (level - below + rho >= 1)
    return _pack((level + (top + 1)).reshape(-1)[:numel].to(torch.int32), bits), scale


@operator(
    "dequantize_symmetric(Tensor codes, Tensor scale, int bits, int block_size, SymInt numel, "
    "ScalarType dtype) -> Tensor",
    fake=_fake_dequantize,
)
def dequantize_symmetric(
    codes: Tensor, scale: Tensor, bits: int, block_size: int, numel: int, dtype: torch.dtype
) -> Tensor:
    """Decode to a tensor of shape ``(numel,)``; see the module's text."""
    empty = _fake_dequantize(codes, scale, bits, block_size, numel, dtype)
    if numel == 0:
        return empty
    top = 2 ** (bits - 1) - 1
    level = _to_blocks(_unpack(codes, bits, numel).to(torch.float32), block_size) - (top + 1)
    return (level * scale.to(torch.float32)[:, None]).reshape(-1)[:numel].to(dtype)
