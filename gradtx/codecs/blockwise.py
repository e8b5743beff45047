"""Codes of 4 or 8 bits with one scale a block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..core.fields import static
from ..core.state import state_zeros
from ..ops import block_dequantize, block_quantize
from .codec import Codec, Encoding, check_shapes

_BLOCK = {4: 128, 8: 256}


class Blockwise(NamedTuple):
    """A signed tensor of n elements in blocks.

    Attributes:
        codes: uint8 (ceil(n * bits / 8),).
        scale: float32 (ceil(n / block_size),), the largest magnitude of each block.
    """

    codes: Tensor
    scale: Tensor


class UnsignedBlockwise(NamedTuple):
    """A non-negative tensor in blocks; the fields are those of ``Blockwise``."""

    codes: Tensor
    scale: Tensor


@dataclass(frozen=True, repr=False)
class blockwise(Codec):
    """Keep 4 or 8 bits an element and the largest magnitude of each block.

    The codes follow a power law that is dense near zero (``gradtx.ops.block_quantize`` has the
    formulas); zero comes back as zero from signed states, and never from unsigned ones unless the
    whole block is zero. Blocks run over the flattened leaf. Two 8-bit moments take 2.03 bytes a
    parameter, two 4-bit moments 1.06.

    Args:
        bits: 8 or 4.
        block_size: elements that share a scale, >= 1; default 256 with 8 bits, 128 with 4.
        min_size: leaves with fewer elements stay dense, >= 0.

    Raises:
        ValueError: another number of bits, or a size below its bound.

    Source: arXiv 2110.02861 (8 bits), arXiv 2309.01507 (4 bits), with another code.

    >>> import torch, gradtx as gx
    >>> codec, v = gx.codecs.blockwise(4, min_size=0), torch.tensor([16.0, 0.0, 1.0])
    >>> codec.decode(codec.encode(v, codec.init(v, signed=False)), like=v)
    tensor([1.6000e+01, 2.4414e-04, 1.0000e+00])
    """

    bits: Literal[4, 8] = 8
    block_size: int | None = static(None, at_least=1, within="[1, 2147483647]")
    min_size: int = static(4096, at_least=0)

    @property
    def keeps_zero(self) -> bool:
        return True

    @property
    def block(self) -> int:
        """Elements that share a scale."""
        return self.block_size or _BLOCK[self.bits]

    def of_blocks(self, numel: int) -> tuple[int, Codec] | None:
        if numel < max(self.min_size, 1) or self.block * self.bits % 8:
            return None
        return self.block, replace(self, min_size=0)

    def init(self, p: Tensor, signed: bool) -> Encoding:
        if p.numel() < max(self.min_size, 1):
            return state_zeros(p)
        zeros = p.new_zeros(p.numel(), dtype=torch.float32)
        kind = Blockwise if signed else UnsignedBlockwise
        return kind(*block_quantize(zeros, self.bits, self.block, signed))

    def decode(self, enc: Encoding, like: Tensor) -> Tensor:
        if not isinstance(enc, (Blockwise, UnsignedBlockwise)):
            assert isinstance(enc, Tensor)
            return enc.to(like.dtype)
        n = like.numel()
        bytes_, blocks = (n * self.bits + 7) // 8, (n + self.block - 1) // self.block
        check_shapes(self, like, enc, (bytes_,), (blocks,))
        signed = isinstance(enc, Blockwise)
        flat = block_dequantize(enc.codes, enc.scale, n, self.bits, self.block, signed)
        return flat.reshape(like.shape).to(like.dtype)

    def encode(self, full: Tensor, enc: Encoding) -> Encoding:
        if not isinstance(enc, (Blockwise, UnsignedBlockwise)):
            assert isinstance(enc, Tensor)
            return full.to(enc.dtype)
        signed = isinstance(enc, Blockwise)
        return type(enc)(*block_quantize(full.reshape(-1), self.bits, self.block, signed))
