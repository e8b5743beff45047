"""Means over workers of what a compressor keeps, with memory of what it drops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, Encoding, as_codec
from ..compressors import Compressor
from ..core.errors import described
from ..core.plain import Plain
from .exchange import exchange
from .rounds import Mean, Rounds, together


class Residual(NamedTuple):
    """What one worker remembers of a leaf.

    Attributes:
        error: what has been dropped so far, as its codec keeps it.
        compressor: the compressor's state.
    """

    error: Encoding
    compressor: Any


@dataclass(frozen=True)
class Feedback(Plain):
    """Compression of what workers exchange.

    a = u + decay e; C(a) is exchanged and e <- a - C(a). With a decay below 1 the memory is a
    momentum that loses what has been sent.

    Args:
        compressor: C, one of ``gx.compressors``; None exchanges everything and remembers nothing.
        decay: of the memory, in [0, 1].
        quantizer: how it is kept: a codec, a dtype, or None for float32.

    Raises:
        ValueError: a decay outside its range.
        TypeError: another kind of compressor.

    >>> import gradtx as gx
    >>> gx.distributed.Feedback(gx.compressors.top_k(0.02), decay=0.95).decay
    0.95
    """

    compressor: Compressor | None = None
    decay: float = 1.0
    quantizer: Codec | torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.compressor is not None and not isinstance(self.compressor, Compressor):
            raise TypeError(
                "Feedback: compressor must be one of gx.compressors or None, "
                f"got {described(self.compressor)}"
            )
        if not 0 <= self.decay <= 1:
            raise ValueError(f"Feedback: decay must be in [0, 1], got {self.decay}")

    def init(self, p: Tensor, name: str) -> Residual | tuple[()]:
        """What a worker remembers of a leaf at first."""
        if self.compressor is None:
            return ()
        codec = as_codec(self.quantizer).for_leaf(name)
        return Residual(codec.init(p, signed=True), self.compressor.init(p, name))

    def means(self, us: Sequence[Tensor], olds: Sequence[Any], names: Sequence[str]) -> Rounds:
        """A generator whose result is the means of what is kept of tensors, and the new memory."""
        if self.compressor is None:
            return (yield [Mean(u) for u in us]), list(olds)
        codecs = [as_codec(self.quantizer).for_leaf(name) for name in names]
        totals = [
            u + self.decay * codec.decode(old.error, u)
            for u, old, codec in zip(us, olds, codecs, strict=True)
        ]
        done = yield from together(
            exchange(self.compressor, total, old.compressor, total.dtype)
            for total, old in zip(totals, olds, strict=True)
        )
        means, news = [], []
        for (mean, rest, state), old, codec in zip(done, olds, codecs, strict=True):
            means.append(mean)
            news.append(Residual(codec.encode(rest, old.error), state))
        return means, news
