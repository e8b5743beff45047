"""Affine and symmetric block quantisation as codecs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..core.fields import static
from ..core.random import Seed, derived_key, next_key, seed_field
from ..ops import dequantize_affine, dequantize_symmetric, quantize_affine, quantize_symmetric
from ..ops.quantize import Quantized
from .codec import Codec, Encoding, check_shapes

_DTYPES = (torch.float32, torch.bfloat16)


class Affine(NamedTuple):
    """A tensor of n elements, in blocks that have a range each.

    Attributes:
        codes: uint8 (ceil(n * bits / 8),).
        lo: (ceil(n / block_size),), lower end of each block's range.
        hi: same shape, upper end.
        key: int64 (2,), the stream of random numbers and its position; () without.
    """

    codes: Tensor
    lo: Tensor
    hi: Tensor
    key: Tensor | tuple[()]


class Symmetric(NamedTuple):
    """A tensor of n elements, in blocks that have a step each.

    Attributes:
        codes: uint8 (ceil(n * bits / 8),).
        scale: (ceil(n / block_size),), step of each block.
        key: int64 (2,), the stream of random numbers and its position; () without.
    """

    codes: Tensor
    scale: Tensor
    key: Tensor | tuple[()]


@dataclass(frozen=True, repr=False)
class _Blocks(Codec):
    """What both have in common."""

    bits: Literal[2, 4, 8] = 4
    block_size: int = static(64, at_least=1, within="[1, 2147483647]")
    rounding: Literal["nearest", "stochastic"] = "nearest"
    stats_dtype: torch.dtype = static(torch.float32, choices=_DTYPES)
    seed: Seed = seed_field()
    stream: str = ""

    def for_leaf(self, name: str) -> Codec:
        return replace(self, stream=name) if self.rounding == "stochastic" else self

    def of_blocks(self, numel: int) -> tuple[int, Codec] | None:
        alike = self.rounding == "nearest" and self.block_size * self.bits % 8 == 0
        return (self.block_size, self) if alike and numel else None

    def _key(self, p: Tensor) -> Tensor | tuple[()]:
        if self.rounding == "nearest":
            return ()
        return derived_key(self.seed, self.stream, p.device)

    def _sizes(self, n: int) -> tuple[tuple[int], tuple[int]]:
        """Shapes of the codes and of the numbers that a block has."""
        return ((n * self.bits + 7) // 8,), ((n + self.block_size - 1) // self.block_size,)


@dataclass(frozen=True, repr=False)
class affine(_Blocks):
    """Keep 2, 4 or 8 bits an element and the range of each block.

    u = (hi - lo) / (2^bits - 1), c = floor((x - lo) / u + rho), back x = c u + lo, with rho = 1/2
    or uniform in [0, 1); ``gradtx.ops.quantize`` has the details. The levels are evenly spaced,
    which suits what compression drops, not second moments. 4 bits in blocks of 64 take 0.56 bytes
    an element with bfloat16 ranges.

    Args:
        bits: 2, 4 or 8.
        block_size: elements that share a range, >= 1.
        rounding: "nearest", or "stochastic": unbiased.
        stats_dtype: float32 or bfloat16, dtype of the ranges.
        seed: of stochastic rounding.
        stream: tells the random numbers of leaves apart; ``for_leaf`` sets it.
        include_zero: put zero on the grid, so that it comes back as zero. First moments kept so
            always do.

    Raises:
        ValueError: a value that is not among these.

    Source: arXiv 2405.15593.

    >>> import torch, gradtx as gx
    >>> codec, x = gx.codecs.affine(bits=2), torch.tensor([0.0, 1.0, 2.2, 3.0])
    >>> codec.decode(codec.encode(x, codec.init(x, signed=True)), like=x)
    tensor([0., 1., 2., 3.])
    """

    include_zero: bool = False

    @property
    def keeps_zero(self) -> bool:
        return self.include_zero

    def for_first_moment(self) -> Codec:
        return self if self.include_zero else replace(self, include_zero=True)

    def init(self, p: Tensor, signed: bool) -> Affine:
        codes, blocks = self._sizes(p.numel())
        lo = p.new_zeros(blocks, dtype=self.stats_dtype)
        return Affine(p.new_zeros(codes, dtype=torch.uint8), lo, torch.zeros_like(lo), self._key(p))

    def decode(self, enc: Encoding, like: Tensor) -> Tensor:
        assert isinstance(enc, Affine)
        codes, blocks = self._sizes(like.numel())
        check_shapes(self, like, enc, codes, blocks, blocks)
        q = Quantized(*enc[:3])
        return dequantize_affine(q, like.shape, self.bits, self.block_size, dtype=like.dtype)

    def encode(self, full: Tensor, enc: Encoding) -> Affine:
        assert isinstance(enc, Affine)
        key = enc.key if isinstance(enc.key, Tensor) else None
        q = quantize_affine(
            full,
            self.bits,
            self.block_size,
            rounding=self.rounding,
            key=key,
            include_zero=self.include_zero,
            stats_dtype=enc.lo.dtype,
        )
        return Affine(*q, () if key is None else next_key(key))

    def rescale(self, enc: Encoding, factor: float, like: Tensor) -> Affine:
        assert isinstance(enc, Affine)
        lo, hi = ((factor * x.to(torch.float32)).to(x.dtype) for x in (enc.lo, enc.hi))
        return enc._replace(lo=lo, hi=hi)


@dataclass(frozen=True, repr=False)
class symmetric(_Blocks):
    """Keep 2, 4 or 8 bits an element and the step of each block; zero comes back as zero.

    s = max|x| / (2^(bits-1) - 1), c = round(x / s) and back x = c s;
    ``gradtx.ops.symmetric`` has the details.

    Args:
        bits: 2, 4 or 8.
        block_size: elements that share a step, >= 1.
        rounding: "nearest", or "stochastic": unbiased.
        stats_dtype: float32 or bfloat16, dtype of the steps.
        seed: of stochastic rounding.
        stream: tells the random numbers of leaves apart; ``for_leaf`` sets it.

    Raises:
        ValueError: a value that is not among these.

    >>> import torch, gradtx as gx
    >>> codec, x = gx.codecs.symmetric(bits=4), torch.tensor([0.0, 1.4, -7.0])
    >>> codec.decode(codec.encode(x, codec.init(x, signed=True)), like=x)
    tensor([ 0.,  1., -7.])
    """

    @property
    def keeps_zero(self) -> bool:
        return True

    def init(self, p: Tensor, signed: bool) -> Symmetric:
        codes, blocks = self._sizes(p.numel())
        return Symmetric(
            p.new_zeros(codes, dtype=torch.uint8),
            p.new_zeros(blocks, dtype=self.stats_dtype),
            self._key(p),
        )

    def decode(self, enc: Encoding, like: Tensor) -> Tensor:
        assert isinstance(enc, Symmetric)
        check_shapes(self, like, enc, *self._sizes(like.numel()))
        flat = dequantize_symmetric(
            *(enc.codes, enc.scale, self.bits, self.block_size, like.numel(), like.dtype)
        )
        return flat.reshape(like.shape)

    def encode(self, full: Tensor, enc: Encoding) -> Symmetric:
        assert isinstance(enc, Symmetric)
        key = enc.key if isinstance(enc.key, Tensor) else None
        codes, scale = quantize_symmetric(
            full, self.bits, self.block_size, key is not None, key, enc.scale.dtype
        )
        return Symmetric(codes, scale, () if key is None else next_key(key))

    def rescale(self, enc: Encoding, factor: float, like: Tensor) -> Symmetric:
        assert isinstance(enc, Symmetric)
        scale = (factor * enc.scale.to(torch.float32)).to(enc.scale.dtype)
        return enc._replace(scale=scale)
