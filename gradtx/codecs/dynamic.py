"""Eight bits an element over ten decades, with one scale a block."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.fields import static
from ..core.state import state_zeros
from .blockwise import Blockwise, UnsignedBlockwise
from .codec import Codec, Encoding, check_shapes


def _book(signed: bool) -> tuple[float, ...]:
    """The numbers that the codes stand for, ascending."""
    positive = []
    for i in range(7):
        cells = 2**i if signed else 2 ** (i + 1)
        width = 0.9 / cells
        positive += [(0.1 + (k + 0.5) * width) * 10.0 ** (i - 6) for k in range(cells)]
    values = [*positive, *([-x for x in positive] if signed else []), 0.0, 1.0]
    return tuple(sorted(values))


_BOOKS = {signed: _book(signed) for signed in (True, False)}


@dataclass(frozen=True, repr=False)
class dynamic8(Codec):
    """Keep the nearest of 256 numbers that are dense near zero, times the block's largest.

    Signed states have 127 magnitudes of both signs, 0 and 1; others 254 magnitudes, 0 and 1. Every
    decade below 1 has half as many as the one above it, the midpoints of equal cells. A negative
    number that would become zero takes the negative code next to it. A block that holds something
    not finite becomes NaN. Blocks run over the flattened leaf.

    Args:
        block_size: elements that share a scale, >= 1.
        min_size: leaves with fewer elements stay dense, >= 0.

    Raises:
        ValueError: a size below its bound.

    Source: arXiv 2110.02861.

    >>> import torch, gradtx as gx
    >>> codec, v = gx.codecs.dynamic8(min_size=0), torch.tensor([8.0, 0.0, 1e-4])
    >>> codec.decode(codec.encode(v, codec.init(v, signed=False)), like=v)
    tensor([8.0000e+00, 0.0000e+00, 1.2500e-04])
    """

    block_size: int = static(256, at_least=1, within="[1, 2147483647]")
    min_size: int = static(4096, at_least=0)

    @property
    def keeps_zero(self) -> bool:
        return True

    def of_blocks(self, numel: int) -> tuple[int, Codec] | None:
        small = numel < max(self.min_size, 1)
        return None if small else (self.block_size, replace(self, min_size=0))

    def init(self, p: Tensor, signed: bool) -> Encoding:
        n = p.numel()
        if n < max(self.min_size, 1):
            return state_zeros(p)
        zero = _BOOKS[signed].index(0.0)
        codes = torch.full((n,), zero, dtype=torch.uint8, device=p.device)
        scale = torch.zeros(-(-n // self.block_size), dtype=torch.float32, device=p.device)
        return Blockwise(codes, scale) if signed else UnsignedBlockwise(codes, scale)

    def decode(self, enc: Encoding, like: Tensor) -> Tensor:
        if not isinstance(enc, (Blockwise, UnsignedBlockwise)):
            assert isinstance(enc, Tensor)
            return enc.to(like.dtype)
        n = like.numel()
        check_shapes(self, like, enc, (n,), (-(-n // self.block_size),))
        book = _values(isinstance(enc, Blockwise), enc.codes.device)
        values = book[enc.codes.long()] * enc.scale.repeat_interleave(self.block_size)[:n]
        return values.reshape(like.shape).to(like.dtype)

    def encode(self, full: Tensor, enc: Encoding) -> Encoding:
        if not isinstance(enc, (Blockwise, UnsignedBlockwise)):
            assert isinstance(enc, Tensor)
            return full.to(enc.dtype)
        n, blocks = full.numel(), enc.scale.shape[0]
        signed = isinstance(enc, Blockwise)
        flat = full.reshape(-1).to(torch.float32)
        padded = torch.cat([flat, flat.new_zeros(blocks * self.block_size - n)])
        scale = padded.reshape(blocks, self.block_size).abs().amax(dim=1)
        scale = torch.where(torch.isfinite(scale), scale, torch.nan)
        spread = scale.repeat_interleave(self.block_size)[:n]
        unit = torch.where(spread > 0, flat / torch.where(spread > 0, spread, 1.0), 0.0)
        book = _values(signed, full.device)
        codes = torch.bucketize(unit, (book[1:] + book[:-1]) / 2, right=True)
        if signed:
            codes = codes - ((unit < 0) & (book[codes] >= 0)).long()
        return type(enc)(codes.to(torch.uint8), scale)


def _values(signed: bool, device: torch.device) -> Tensor:
    """The values of all codes."""
    return torch.tensor(_BOOKS[signed], dtype=torch.float32, device=device)
