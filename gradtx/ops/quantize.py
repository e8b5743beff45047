"""Affine block quantisation: 2, 4 or 8 bits an element and one range a block.

A tensor is flattened row-major and cut into blocks of `block_size` elements, the last one shorter.
With ``L = 2**bits - 1`` levels above the lowest, a block stores its range ``(lo, hi)`` and

    u = (hi - lo) / L
    c = floor((x - lo) / u + rho), clamped to [0, L]; 0 where u = 0
    x ≈ c * u + lo

all in float32, rounding after every operation (true division, no fused multiply-add). Other input
dtypes are converted to float32 first. The codes c are packed into bytes, first element in the
highest bits; unused bits of the last byte are 0.

* **nearest**: rho = 1/2, lo and hi are the block's extremes rounded to nearest.
* **stochastic**: rho is ``uniform(key)`` at the element's flat index; lo is rounded down and hi up,
  so that they bracket the block and the decoded value is unbiased. The carry is taken on the
  fractional part, ``c = floor(t) + (t - floor(t) + rho >= 1)``: a value on the grid never moves.
* **include_zero**: 0 is a grid point and decodes to exactly 0. ``lo = min(lo, 0)``,
  ``hi = max(hi, 0)``; the step ``s = (hi - lo) / L`` (in stochastic mode with lo < 0 < hi:
  ``/ (L - 1)``) is rounded up to ``p - bits`` significant bits (at least 1; p = 24 for float32
  ranges, 8 for bfloat16), which makes every multiple of it up to L exact; the zero level is
  ``z = floor(-lo / s + 1/2)`` (stochastic: ``ceil(-lo / s)``), and the stored range is
  ``(-z * s, (L - z) * s)``. In nearest mode the ends may be clipped by at most s/2. The step grows
  by at most 2**-15 of itself with float32 ranges; with bfloat16 ranges by less than 1/32, 1/8 or 1
  at 2, 4 or 8 bits.

In nearest mode with float32 ranges ``|x - decoded| <= u/2`` up to float32 rounding.

A block with a NaN, an infinity or a spread that overflows float32 decodes to NaN in every element;
other blocks are unaffected. Both operators are constants for automatic differentiation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gradtx.ops import affine

__all__ = ["Quantized", "dequantize_affine", "quantize_affine"]


class Quantized(NamedTuple):
    """A quantised tensor.

    Attributes:
        codes: uint8, ``(ceil(numel * bits / 8),)``; packed, first element in the highest bits.
        lo: ``(ceil(numel / block_size),)``, lower end of each block's range.
        hi: same shape, upper end.
    """

    codes: Tensor
    lo: Tensor
    hi: Tensor


def quantize_affine(
    x: Tensor,
    bits: int = 4,
    block_size: int = 64,
    *,
    rounding: Literal["nearest", "stochastic"] = "nearest",
    key: Tensor | None = None,
    include_zero: bool = False,
    stats_dtype: torch.dtype = torch.float32,
) -> Quantized:
    """Quantise a tensor block by block: ``c = clamp(floor((x - lo) / u + rho), 0, L)``.

    Args:
        x: floating tensor of any shape.
        bits: 2, 4 or 8.
        block_size: elements that share a range, >= 1.
        rounding: "nearest", or "stochastic" (unbiased).
        key: int64 tensor of shape ``(2,)``, see `gradtx.core.random`; stochastic rounding only.
        include_zero: make 0 a grid point that decodes to exactly 0.
        stats_dtype: float32 or bfloat16, dtype of lo and hi.

    Raises:
        ValueError: for an invalid argument.

    >>> import torch, gradtx as gx
    >>> from gradtx.ops.quantize import dequantize_affine, quantize_affine
    >>> q = quantize_affine(torch.tensor([0.0, 1.0, 2.0, 3.0]), bits=2)
    >>> q.codes, q.lo, q.hi
    (tensor([27], dtype=torch.uint8), tensor([0.]), tensor([3.]))
    >>> dequantize_affine(q, (4,), bits=2)
    tensor([0., 1., 2., 3.])
    """
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(
            f"quantize_affine: rounding must be 'nearest' or 'stochastic', got {rounding!r}"
        )
    args = (x, bits, block_size, rounding == "stochastic", key, include_zero, stats_dtype)
    affine.check_quantize(*args)
    return Quantized(*affine.quantize_affine(*args))


def dequantize_affine(
    q: Quantized,
    shape: Sequence[int],
    bits: int = 4,
    block_size: int = 64,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Decode a quantised tensor: ``c * u + lo`` with ``u = (hi - lo) / L``.

    Args:
        q: what `quantize_affine` returned.
        shape: the original shape.
        bits: as given to `quantize_affine`.
        block_size: as given to `quantize_affine`.
        dtype: dtype of the result, rounded once from float32.

    Raises:
        ValueError: if codes or ranges do not fit `shape`, or for an invalid argument.
    """
    args = (*q, bits, block_size, math.prod(shape), dtype)
    affine.check_dequantize(*args)
    return affine.dequantize_affine(*args).reshape(tuple(shape))
