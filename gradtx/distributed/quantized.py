"""Entries of leaves in few bits a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..codecs import Codec, affine
from ..compressors import Coded, Payload, SparseCompressor
from ..core.errors import described
from ..core.leaves import SparseUpdate


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
    >>> c, x = gx.distributed.quantized(gx.compressors.top_k(0.5)), torch.tensor([9.0, 0, 3.0, 1.0])
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

    def encode(self, x: Tensor, state: Any) -> tuple[tuple[Tensor, ...], Any]:
        kept, new = self.compressor.compress(x, state)
        empty = self.codec.init(kept.values, signed=True)
        codes = self.codec.encode(kept.values, empty)
        return (kept.indices, *_tensors(codes)), new

    def decode(self, message: tuple[Tensor, ...], like: Tensor) -> SparseUpdate:
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
