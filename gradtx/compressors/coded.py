"""Compressors that say by themselves what travels, such as frequencies instead of entries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..ops.block_top_k import block_starts
from .compressor import Compressor, Payload

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
