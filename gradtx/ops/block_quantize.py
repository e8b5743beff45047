"""The operators ``gradtx::block_quantize`` and ``gradtx::block_dequantize``: power-law codes.

A flat tensor is cut into blocks of `block_size` elements, the last one shorter. A block keeps its
largest magnitude ``s`` (float32) and, an element, a level on a scale that is dense near zero:

* **signed** (first moments): ``q = 2**(bits - 1) - 1`` levels decode as
  ``sign(x) * (k / q)**2 * s`` with ``k = round(sqrt(max(|x| * (q**2 / s) - 1/4, 0)))``; the code is
  ``±k + q + 1``. Zero comes back as exactly zero.
* **unsigned** (second moments): ``q = 2**bits`` levels decode as ``(k / q)**4 * s``, where k >= 1
  is the smallest level with ``x <= ((k * (k + 1) - 3/4) / q**2)**2 * s``; the code is ``k - 1``.
  No element comes back as zero unless its whole block is zero (or the result is below float32): a
  division by its root stays bounded.

The terms 1/4 and 3/4 move the borders between levels: for first moments to the middle of the
decoded values, for second moments to just below the middle of the inverse roots, by which an
adaptive step multiplies. Decoding and encoding again gives the same codes.

Roots are square roots and all arithmetic is float32 with every operation rounded, but for
``|x| * (q**2 / s) - 1/4``, which is rounded once, so every device gives the same bits; other dtypes
are converted to float32 first. The largest magnitude comes back exactly. An all-zero block has
s = 0 and decodes to zeros; so does a signed one that has nothing of 2**-100 or more. A block with a
NaN or an infinity decodes to NaN in every element. Codes of 4 bits are packed two a byte, the first
element in the high half; an unused half is 0. Both operators are constants for automatic
differentiation.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gradtx.ops.packed_blocks import check_format, foldable
from gradtx.ops.registry import map_examples, operator

__all__ = ["block_dequantize", "block_quantize"]

# The powers were chosen on 400 AdamW steps of a byte-level transformer with every moment coded anew
# at every step, by the relative error of m / (sqrt(v) + eps), mean of four layers:
#   signed    8 bits 0.022 (linear 0.064, dynamic exponents 0.033), 4 bits 0.35 (0.54, 0.38);
#   unsigned  8 bits 0.060 (linear 0.26, dynamic exponents 0.095),  4 bits 0.35 (0.42, diverges).
# Higher powers are worse: 0.025 (cubes, signed) and 0.071 (eighth powers, unsigned) at 8 bits.
_BITS = (4, 8)
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_quantize(x: Tensor, bits: int, block_size: int) -> None:
    """Raise ValueError unless the arguments of `block_quantize` are valid."""
    check_format("block_quantize", bits, _BITS, block_size)
    if x.dtype not in _DTYPES:
        raise ValueError(f"block_quantize: x must be one of {_DTYPES}, got {x.dtype}")
    if x.ndim != 1:
        raise ValueError(f"block_quantize: x must be flat, got shape {tuple(x.shape)}")


def check_dequantize(codes: Tensor, scale: Tensor, numel: int, bits: int, block_size: int) -> None:
    """Raise ValueError unless the arguments of `block_dequantize` are valid."""
    name = "block_dequantize"
    check_format(name, bits, _BITS, block_size)
    if numel < 0:
        raise ValueError(f"{name}: numel must be >= 0, got {numel}")
    for label, tensor, dtype, size in (
        ("codes", codes, torch.uint8, _num_bytes(numel, bits)),
        ("scale", scale, torch.float32, _num_blocks(numel, block_size)),
    ):
        if tensor.dtype != dtype or tensor.shape != (size,):
            raise ValueError(
                f"{name}: {label} must be {dtype} of shape ({size},) for {numel} elements of "
                f"{bits} bits in blocks of {block_size}, got {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}"
            )
    if scale.device != codes.device:
        raise ValueError(f"{name}: scale is on {scale.device} but codes on {codes.device}")


def _num_blocks(numel: int, block_size: int) -> int:
    return (numel + block_size - 1) // block_size


def _num_bytes(numel: int, bits: int) -> int:
    return (numel * bits + 7) // 8


def _fake_quantize(x: Tensor, bits: int, block_size: int, signed: bool) -> tuple[Tensor, Tensor]:
    check_quantize(x, bits, block_size)
    return (
        x.new_empty(_num_bytes(x.numel(), bits), dtype=torch.uint8),
        x.new_empty(_num_blocks(x.numel(), block_size), dtype=torch.float32),
    )


def _fake_dequantize(
    codes: Tensor, scale: Tensor, numel: int, bits: int, block_size: int, signed: bool
) -> Tensor:
    check_dequantize(codes, scale, numel, bits, block_size)
    return codes.new_empty(numel, dtype=torch.float32)


def _vmap_quantize(
    info: Any, in_dims: tuple[Any, ...], x: Tensor, bits: int, block_size: int, signed: bool
) -> tuple[Any, Any]:
    x = x.movedim(in_dims[0], 0)
    if not foldable(x.shape[1], bits, block_size):
        dims = (0, None, None, None)
        return map_examples(block_quantize, info, dims, x, bits, block_size, signed)
    outputs = block_quantize(x.reshape(-1), bits, block_size, signed)
    return tuple(out.reshape(info.batch_size, -1) for out in outputs), (0, 0)


def _vmap_dequantize(
    info: Any,
    in_dims: tuple[Any, ...],
    codes: Tensor,
    scale: Tensor,
    numel: int,
    bits: int,
    block_size: int,
    signed: bool,
) -> tuple[Any, Any]:
    codes, scale = (
        t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip((codes, scale), in_dims[:2], strict=True)
    )
    rest = (bits, block_size, signed)
    if not foldable(numel, bits, block_size):
        dims = (0, 0, None, None, None, None)
        return map_examples(block_dequantize, info, dims, codes, scale, numel, *rest)
    total = numel * info.batch_size
    out = block_dequantize(codes.reshape(-1), scale.reshape(-1), total, *rest)
    return out.reshape(info.batch_size, numel), 0


@operator(
    "block_quantize(Tensor x, int bits, int block_size, bool signed) "
    "-> (Tensor codes, Tensor scale)",
    fake=_fake_quantize,
    vmap=_vmap_quantize,
)
def block_quantize(x: Tensor, bits: int, block_size: int, signed: bool) -> tuple[Tensor, Tensor]:
    """Quantise a flat tensor block by block; see the module's text."""
    check_quantize(x, bits, block_size)
    numel = x.numel()
    if numel == 0:
        return _fake_quantize(x, bits, block_size, signed)
    values = x.to(torch.float32)
    magnitude = values.abs() if signed else values.clamp(min=0)
    block = min(block_size, numel)
    blocks = F.pad(magnitude, (0, -numel % block)).reshape(-1, block)
    scale = blocks.amax(1)
    scale = torch.where(scale.isfinite(), scale, torch.nan)
    if signed:
        scale = torch.where(scale < 2.0**-100, 0.0, scale)
    each = scale[:, None].expand_as(blocks).reshape(-1)[:numel]
    code = _signed_codes(values, each, bits) if signed else _unsigned_codes(values, each, bits)
    return _pack(code.to(torch.uint8), bits), scale


def _signed_codes(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    top = 2 ** (bits - 1) - 1
    factor = torch.where(scale > 0, torch.full_like(scale, top**2) / scale, 0.0)
    shifted = (x.abs().double() * factor.double() - 0.25).float()
    level = torch.sqrt(torch.where(shifted > 0, shifted, 0.0)).round()
    return torch.where(x < 0, -level, level) + (top + 1)


def _unsigned_codes(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    top = 2**bits
    ratio = x / scale
    square = torch.sqrt(torch.where(ratio > 0, ratio, 0.0)) * top**2
    level = torch.floor(torch.sqrt(square + 1) + 0.5)  # it or a neighbour

    def above(level: Tensor) -> Tensor:
        root = (level * (level + 1) - 0.75) / top**2
        return root * root * scale < x

    level = torch.where((level > 1) & ~above(level - 1), level - 1, level)
    return torch.where(above(level), level + 1, level) - 1


@operator(
    "block_dequantize(Tensor codes, Tensor scale, SymInt numel, int bits, int block_size, "
    "bool signed) -> Tensor",
    fake=_fake_dequantize,
    vmap=_vmap_dequantize,
)
def block_dequantize(
    codes: Tensor, scale: Tensor, numel: int, bits: int, block_size: int, signed: bool
) -> Tensor:
    """Decode to a float32 tensor of shape ``(numel,)``; see the module's text."""
    check_dequantize(codes, scale, numel, bits, block_size)
    level = _unpack(codes, bits, numel).to(torch.float32)
    scales = scale.repeat_interleave(min(block_size, max(numel, 1)))[:numel]
    if signed:
        top = 2 ** (bits - 1) - 1
        root = (level - (top + 1)) / torch.full_like(level, top)
        return root * root.abs() * scales
    root = (level + 1) / 2**bits
    square = root * root
    return square * square * scales


def _pack(codes: Tensor, bits: int) -> Tensor:
    if bits == 8:
        return codes
    pairs = F.pad(codes, (0, codes.numel() % 2)).reshape(-1, 2)
    return (pairs[:, 0] << 4) | pairs[:, 1]


def _unpack(codes: Tensor, bits: int, numel: int) -> Tensor:
    if bits == 8:
        return codes
    return torch.stack((codes >> 4, codes & 15), 1).reshape(-1)[:numel]
