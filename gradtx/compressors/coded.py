"""Compressors whose messages are codes: few bits a value, or frequencies instead of entries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..codecs import Codec, affine
from ..core.errors import described
from ..core.leaves import SparseUpdate
from ..ops.block_top_k import block_starts
from .compressor import Compressor, Payload
from .sparse import SparseCompressor

Message = tuple[Tensor, ...]


@dataclass(frozen=True, repr=False)
class Coded(Compressor):
    """Base class of compressors that say by themselves what travels; define both functions."""

    def encode(self, x: Tensor, state: Any) -> tuple[Message, Any]:
        """What travels of ``x``, and the state for the next update."""
        raise NotImplementedError

    def decode(self, message: Message, like: Tensor) -> Payload:
        """What is kept, of a message about a leaf of this shape and dtype."""
        raise NotImplementedError

    def compress(self, x: Tensor, state: Any) -> tuple[Payload, Any]:
        message, new = self.encode(x, state)
        return self.decode(message, x), new


@dataclass(frozen=True, repr=False)
class quantized(Coded):
    """Keep the entries that another compressor keeps, in few bits a value.

    Args:
        compressor: which entries are kept: ``top_k``, ``block_top_k``.
        codec: how their values travel, one of ``gx.codecs`` that rounds to nearest; default two
            bits a value, and a range for every 64 of them.

    Raises:
        TypeError: another kind of compressor or codec.
        ValueError: a codec that rounds stochastically.

    Source: arXiv 2508.15706.

    >>> import torch, gradtx as gx
    >>> c, x = gx.compressors.quantized(gx.compressors.top_k(0.5)), torch.tensor([9.0, 0, 3.0, 1.0])
    >>> payload, _ = c.compress(x, c.init(x))
    >>> payload.values, payload.values.numel() * 2
    (tensor([9., 3.]), 4)
    """

    compressor: SparseCompressor
    codec: Codec = affine(2)

    def __post_init__(self) -> None:
        if not isinstance(self.compressor, SparseCompressor):
            raise TypeError(
                "quantized: compressor must keep entries of leaves, such as top_k, "
                f"got {described(self.compressor)}"
            )
        if not isinstance(self.codec, Codec):
            raise TypeError(f"quantized: codec must be one of gx.codecs, got {self.codec!r}")
        if getattr(self.codec, "rounding", "nearest") != "nearest":
            raise ValueError("quantized: codec must round to nearest; what is lost is remembered")

    def init(self, p: Tensor, name: str = "") -> Any:
        return self.compressor.init(p, name)

    def encode(self, x: Tensor, state: Any) -> tuple[Message, Any]:
        kept, new = self.compressor.compress(x, state)
        empty = self.codec.init(kept.values, signed=True)
        codes = self.codec.encode(kept.values, empty)
        return (kept.indices, *_tensors(codes)), new

    def decode(self, message: Message, like: Tensor) -> SparseUpdate:
        indices, *codes = message
        values = like.new_zeros(indices.numel())
        empty = self.codec.init(values, signed=True)
        parts = iter(codes)
        fields = [next(parts) if isinstance(part, Tensor) else part for part in _fields(empty)]
        encoding = fields[0] if isinstance(empty, Tensor) else type(empty)(*fields)
        starts = self.compressor.blocks(like.numel()).starts(like.device)
        values = self.codec.decode(encoding, values)
        return SparseUpdate(indices, values, tuple(like.shape), starts)

    def nbits(self, payload: Payload) -> float:
        """Those of the codes and of the positions."""
        assert isinstance(payload, SparseUpdate)
        codes = _tensors(self.codec.init(payload.values, signed=True))
        return 8.0 * (payload.indices.nbytes + sum(x.nbytes for x in codes))


def _fields(encoding: Any) -> tuple[Any, ...]:
    return (encoding,) if isinstance(encoding, Tensor) else tuple(encoding)


def _tensors(encoding: Any) -> list[Tensor]:
    return [x for x in _fields(encoding) if isinstance(x, Tensor)]


@dataclass(frozen=True, repr=False)
class dct_top_k(Coded):
    """Keep the strongest frequencies of every tile of a leaf.

    A leaf is a matrix of its first dimension against all others, cut into tiles whose sides are the
    largest divisors up to ``block``; of the two-dimensional DCT-II of every tile the k entries with
    the largest magnitudes are kept. What is kept is an ordinary tensor; their positions, int16, and
    values travel.

    Args:
        k: frequencies of a tile, >= 1; smaller tiles are kept whole.
        block: largest side of a tile, in [1, 181].

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2411.19870.

    >>> import torch, gradtx as gx
    >>> c, x = gx.compressors.dct_top_k(1, block=4), torch.ones(4, 8)
    >>> c.encode(x, ())[0]
    (tensor([0, 0], dtype=torch.int16), tensor([4., 4.]))
    """

    k: int = 32
    block: int = 64

    def __post_init__(self) -> None:
        for name, most in (("k", math.inf), ("block", 181)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(
                    f"dct_top_k: {name} must be an integer in [1, {most}], got {value}"
                )

    def tile(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Tiles down and across a leaf, and the sides of one."""
        rows = shape[0] if len(shape) > 1 else 1
        columns = math.prod(shape) // max(rows, 1)
        a, b = (_divisor(n, self.block) for n in (rows, columns))
        return rows // a, columns // b, a, b

    def encode(self, x: Tensor, state: Any) -> tuple[Message, Any]:
        down, across, a, b = self.tile(tuple(x.shape))
        tiles = x.reshape(down, a, across, b).transpose(1, 2)  # (down, across, a, b)
        flat = ops.dct(ops.dct(tiles).mT).mT.reshape(-1)
        if not flat.numel():
            return (flat.new_zeros(0, dtype=torch.int16), flat), state
        k = min(self.k, a * b)
        indices = ops.block_top_k(flat.detach(), a * b, k, 0, torch.int16)
        starts = block_starts(indices.numel(), k, a * b, x.device)
        return (indices, flat[indices.long() + starts]), state

    def decode(self, message: Message, like: Tensor) -> Tensor:
        indices, values = message
        down, across, a, b = self.tile(tuple(like.shape))
        if not like.numel():
            return torch.zeros_like(like)
        starts = block_starts(indices.numel(), min(self.k, a * b), a * b, like.device)
        flat = values.new_zeros(like.numel()).index_put((indices.long() + starts,), values)
        tiles = ops.idct(ops.idct(flat.reshape(down, across, a, b)).mT).mT
        return tiles.transpose(1, 2).reshape(like.shape).to(like.dtype)

    def nbits(self, payload: Payload) -> float:
        """Sixteen bits and a value for every frequency that is kept."""
        assert isinstance(payload, Tensor)
        down, across, a, b = self.tile(tuple(payload.shape))
        return down * across * min(self.k, a * b) * (16.0 + 8 * payload.element_size())


def _divisor(n: int, most: int) -> int:
    """The largest divisor of a length up to a bound."""
    return next((d for d in range(min(n, most), 0, -1) if n % d == 0), 1)
