"""The operators ``gradtx::quantize_affine`` and ``gradtx::dequantize_affine``: block quantisation.

The docstring of `gradtx.ops.quantize` defines the numbers; the reference here follows it line by
line, and kernels must return the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gradtx.core.random import uniform
from gradtx.ops.packed_blocks import check_format, foldable
from gradtx.ops.registry import map_examples, operator

__all__ = ["check_dequantize", "check_quantize", "dequantize_affine", "quantize_affine"]

_BITS = (2, 4, 8)
_STATS_DTYPES = (torch.float32, torch.bfloat16)
_VALUE_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_quantize(
    x: Tensor,
    bits: int,
    block_size: int,
    stochastic: bool,
    key: Tensor | None,
    include_zero: bool,
    stats_dtype: torch.dtype,
) -> None:
    """Raise ValueError unless the arguments of `quantize_affine` are valid."""
    name = "quantize_affine"
    check_format(name, bits, _BITS, block_size)
    if not x.is_floating_point():
        raise ValueError(f"{name}: x must have a floating dtype, got {x.dtype}")
    _check_stats_dtype(name, stats_dtype)
    check_key(name, x, stochastic, key)


def check_key(name: str, x: Tensor, stochastic: bool, key: Tensor | None) -> None:
    """Raise ValueError unless there is a key for `x` exactly where rounding is stochastic."""
    if not stochastic:
        if key is not None:
            raise ValueError(f"{name}: key is only used by stochastic rounding")
        return
    if key is None:
        raise ValueError(f"{name}: stochastic rounding needs a key")
    if key.dtype != torch.int64 or key.shape != (2,):
        raise ValueError(
            f"{name}: key must be an int64 tensor of shape (2,), "
            f"got {key.dtype} of shape {tuple(key.shape)}"
        )
    if key.device != x.device:
        raise ValueError(f"{name}: key is on {key.device} but x on {x.device}")


def check_dequantize(
    codes: Tensor,
    lo: Tensor,
    hi: Tensor,
    bits: int,
    block_size: int,
    numel: int,
    dtype: torch.dtype,
) -> None:
    """Raise ValueError unless the arguments of `dequantize_affine` are valid."""
    name = "dequantize_affine"
    check_format(name, bits, _BITS, block_size)
    if dtype not in _VALUE_DTYPES:
        raise ValueError(f"{name}: dtype must be one of {_VALUE_DTYPES}, got {dtype}")
    if numel < 0:
        raise ValueError(f"{name}: numel must be >= 0, got {numel}")
    if codes.dtype != torch.uint8 or codes.shape != (_num_bytes(numel, bits),):
        raise ValueError(
            f"{name}: codes must be uint8 of shape ({_num_bytes(numel, bits)},) for {numel} "
            f"elements of {bits} bits, got {codes.dtype} of shape {tuple(codes.shape)}"
        )
    blocks = _num_blocks(numel, block_size)
    for label, stat in (("lo", lo), ("hi", hi)):
        if stat.shape != (blocks,):
            raise ValueError(
                f"{name}: {label} must have shape ({blocks},) for {numel} elements in blocks of "
                f"{block_size}, got {tuple(stat.shape)}"
            )
        if stat.device != codes.device:
            raise ValueError(f"{name}: {label} is on {stat.device} but codes on {codes.device}")
    _check_stats_dtype(name, lo.dtype)
    if hi.dtype != lo.dtype:
        raise ValueError(f"{name}: lo and hi must share a dtype, got {lo.dtype} and {hi.dtype}")


def _check_stats_dtype(name: str, dtype: torch.dtype, what: str = "lo and hi") -> None:
    if dtype not in _STATS_DTYPES:
        raise ValueError(f"{name}: {what} must be one of {_STATS_DTYPES}, got {dtype}")


def _num_blocks(numel: int, block_size: int) -> int:
    return (numel + block_size - 1) // block_size


def _num_bytes(numel: int, bits: int) -> int:
    return (numel * bits + 7) // 8


def _fake_quantize(
    x: Tensor,
    bits: int,
    block_size: int,
    stochastic: bool,
    key: Tensor | None,
    include_zero: bool,
    stats_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    check_quantize(x, bits, block_size, stochastic, key, include_zero, stats_dtype)
    blocks = _num_blocks(x.numel(), block_size)
    return (
        x.new_empty(_num_bytes(x.numel(), bits), dtype=torch.uint8),
        x.new_empty(blocks, dtype=stats_dtype),
        x.new_empty(blocks, dtype=stats_dtype),
    )


def _fake_dequantize(
    codes: Tensor,
    lo: Tensor,
    hi: Tensor,
    bits: int,
    block_size: int,
    numel: int,
    dtype: torch.dtype,
) -> Tensor:
    check_dequantize(codes, lo, hi, bits, block_size, numel, dtype)
    return codes.new_empty(numel, dtype=dtype)


def _vmap_quantize(
    info: Any, in_dims: tuple[int | None, ...], x: Tensor, bits: int, block_size: int, *args: Any
) -> tuple[Any, Any]:
    """Fold the batch into one call where every example fills whole blocks and whole bytes."""
    stochastic = args[0]
    if not stochastic and in_dims[0] is not None:
        x = x.movedim(in_dims[0], 0)
        in_dims = (0, *in_dims[1:])
        if foldable(x[0].numel(), bits, block_size):
            outputs = quantize_affine(x, bits, block_size, *args)
            return tuple(out.reshape(info.batch_size, -1) for out in outputs), (0, 0, 0)
    return map_examples(quantize_affine, info, in_dims, x, bits, block_size, *args)


def _vmap_dequantize(
    info: Any,
    in_dims: tuple[int | None, ...],
    codes: Tensor,
    lo: Tensor,
    hi: Tensor,
    bits: int,
    block_size: int,
    numel: int,
    dtype: torch.dtype,
) -> tuple[Any, Any]:
    stacked = [
        t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip((codes, lo, hi), in_dims[:3], strict=True)
    ]
    if foldable(numel, bits, block_size):
        flat = (t.reshape(-1) for t in stacked)
        out = dequantize_affine(*flat, bits, block_size, numel * info.batch_size, dtype)
        return out.reshape(info.batch_size, -1), 0
    in_dims = (0, 0, 0, None, None, None, None)
    return map_examples(dequantize_affine, info, in_dims, *stacked, bits, block_size, numel, dtype)


@operator(
    "quantize_affine(Tensor x, int bits, int block_size, bool stochastic, Tensor? key, "
    "bool include_zero, ScalarType stats_dtype) -> (Tensor codes, Tensor lo, Tensor hi)",
    fake=_fake_quantize,
    vmap=_vmap_quantize,
)
def quantize_affine(
    x: Tensor,
    bits: int,
    block_size: int,
    stochastic: bool,
    key: Tensor | None,
    include_zero: bool,
    stats_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise x block by block; see `gradtx.ops.quantize`."""
    check_quantize(x, bits, block_size, stochastic, key, include_zero, stats_dtype)
    numel = x.numel()
    if numel == 0:
        return _fake_quantize(x, bits, block_size, stochastic, key, include_zero, stats_dtype)
    levels = 2**bits - 1
    values = _to_blocks(x.reshape(-1).to(torch.float32), block_size)
    lo, hi = _ranges(values, bits, stochastic, include_zero, stats_dtype)
    low, step = _grid(lo, hi, levels)

    position = ((values - low) / step).nan_to_num(nan=0.0).clamp(0, levels)
    if key is None:
        level = torch.floor(position + 0.5)
    else:
        rho = _to_blocks(uniform(key, (numel,)), block_size)
        level = torch.floor(position)
        level = level + (position - level + rho >= 1)
    level = torch.where(step == 0, 0, level)
    return _pack(level.reshape(-1)[:numel].to(torch.int32), bits), lo, hi


@operator(
    "dequantize_affine(Tensor codes, Tensor lo, Tensor hi, int bits, int block_size, "
    "SymInt numel, ScalarType dtype) -> Tensor",
    fake=_fake_dequantize,
    vmap=_vmap_dequantize,
)
def dequantize_affine(
    codes: Tensor,
    lo: Tensor,
    hi: Tensor,
    bits: int,
    block_size: int,
    numel: int,
    dtype: torch.dtype,
) -> Tensor:
    """Decode to a tensor of shape ``(numel,)``; see `gradtx.ops.quantize`."""
    check_dequantize(codes, lo, hi, bits, block_size, numel, dtype)
    if numel == 0:
        return codes.new_empty(0, dtype=dtype)
    levels = 2**bits - 1
    level = _to_blocks(_unpack(codes, bits, numel).to(torch.float32), block_size)
    low, step = _grid(lo, hi, levels)
    scaled = level * step
    return (scaled + low).reshape(-1)[:numel].to(dtype)


def _to_blocks(flat: Tensor, block_size: int) -> Tensor:
    """Reshape to (blocks, block); the last block is filled up with copies of the last element."""
    numel = flat.numel()
    block = min(block_size, numel)
    missing = -numel % block
    return torch.cat([flat, flat[-1:].expand(missing)]).reshape(-1, block)


def _grid(lo: Tensor, hi: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Return the offset and the step of every block as float32 columns."""
    low, high = lo.to(torch.float32)[:, None], hi.to(torch.float32)[:, None]
    return low, (high - low) / levels


def _ranges(
    values: Tensor, bits: int, stochastic: bool, include_zero: bool, stats_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    lo, hi = values.amin(1), values.amax(1)
    if include_zero:
        lo, hi = _snap_to_zero(lo, hi, bits, stochastic, stats_dtype)
    if stochastic:
        lo, hi = _round_down(lo, stats_dtype), -_round_down(-hi, stats_dtype)
    # Adding 0 turns -0 into +0, so that equal ranges have equal bits.
    return lo.to(stats_dtype) + 0.0, hi.to(stats_dtype) + 0.0


def _snap_to_zero(
    lo: Tensor, hi: Tensor, bits: int, stochastic: bool, stats_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    levels = 2**bits - 1
    lo, hi = lo.clamp(max=0), hi.clamp(min=0)
    # One level is spare where a bracketing grid may have to round both ends outwards.
    spare = ((lo < 0) & (hi > 0)).to(torch.int32) if stochastic else 0
    step = (hi - lo) / (levels - spare)
    finite = step < torch.inf
    # With this few significant bits every level * step is exact in stats_dtype.
    significant = max((24 if stats_dtype == torch.float32 else 8) - bits, 1)
    mask = (1 << (24 - significant)) - 1
    step = ((step.view(torch.int32) + mask) & ~mask).view(torch.float32)
    zero = torch.ceil(-lo / step) if stochastic else torch.floor(-lo / step + 0.5)
    zero = zero.clamp(max=levels)
    snapped_lo = torch.where(step > 0, -(zero * step), 0)
    snapped_hi = torch.where(step > 0, (levels - zero) * step, 0)
    return torch.where(finite, snapped_lo, lo), torch.where(finite, snapped_hi, hi)


def _round_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    nearest = values.to(dtype)
    below = torch.nextafter(nearest, torch.full_like(nearest, -torch.inf))
    return torch.where(nearest.to(values.dtype) > values, below, nearest)


def _shifts(bits: int, device: torch.device) -> Tensor:
    return torch.arange(8 - bits, -1, -bits, dtype=torch.int32, device=device)


def _pack(levels: Tensor, bits: int) -> Tensor:
    groups = F.pad(levels, (0, -levels.numel() % (8 // bits))).reshape(-1, 8 // bits)
    return (groups << _shifts(bits, levels.device)).sum(-1).to(torch.uint8)


def _unpack(codes: Tensor, bits: int, numel: int) -> Tensor:
    levels = (codes.to(torch.int32)[:, None] >> _shifts(bits, codes.device)) & (2**bits - 1)
    return levels.reshape(-1)[:numel]
