"""Compressors that look at every entry by itself, but for one number a block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..core.fields import static
from ..core.sums import element_sum
from .compressor import Compressor, Payload


@dataclass(frozen=True, repr=False)
class threshold(Compressor):
    """Keep the entries whose magnitude reaches a bound, and NaN; the others become zero.

    How many that are depends on the values, so what is kept stays an ordinary tensor.

    Args:
        bound: smallest magnitude that is kept, > 0 and finite.

    Raises:
        ValueError: a bound outside its range.

    >>> import torch, gradtx as gx
    >>> gx.compressors.threshold(2.0).compress(torch.tensor([1.0, -4.0, 2.0]), ())[0]
    tensor([ 0., -4.,  2.])
    """

    bound: float = static(within="(0, inf)")

    def compress(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return torch.where(x.abs() < self.bound, 0.0, x), state

    def nbits(self, payload: Payload) -> float:
        """The values that are not zero, and the entropy of where they are."""
        assert isinstance(payload, Tensor)
        n = max(payload.numel(), 1)
        kept = int(torch.count_nonzero(payload))
        where = sum(k * math.log2(n / k) for k in (kept, n - kept) if k > 0)
        return 8.0 * payload.element_size() * kept + where


@dataclass(frozen=True, repr=False)
class sign(Compressor):
    """Keep the signs, and the mean magnitude of the leaf or of every block: ``mean|x| sign(x)``.

    What is dropped obeys |x - C(x)|^2 = |x|^2 - (sum|x|)^2 / n where no entry is zero. Zeros stay.

    Args:
        block_size: elements of the flattened leaf that share a magnitude, >= 1; None for the
            whole leaf.

    Raises:
        ValueError: a block size below 1.

    Source: arXiv 1901.09847.

    >>> import torch, gradtx as gx
    >>> gx.compressors.sign().compress(torch.tensor([1.0, -4.0, 1.0]), ())[0]
    tensor([ 2., -2.,  2.])
    """

    block_size: int | None = static(None, at_least=1)

    def compress(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        each = self.spread(self.magnitudes(x), x.numel())
        return each.reshape(x.shape) * torch.sign(x), state

    def nbits(self, payload: Payload) -> float:
        """One bit a sign, and a number a block."""
        assert isinstance(payload, Tensor)
        n = payload.numel()
        blocks = -(-n // max(min(self.block_size or n, n), 1))
        return n + 8.0 * payload.element_size() * blocks

    def magnitudes(self, x: Tensor) -> Tensor:
        """The mean magnitude of every block, shape (blocks,)."""
        n = x.numel()
        size = min(self.block_size or n, n)
        if size in (0, n):
            return (element_sum(x.abs()) / max(n, 1))[None]
        mean = F.pad(x.abs().reshape(-1), (0, -n % size)).reshape(-1, size).sum(1) / size
        if n % size:  # the last block is shorter
            longer = torch.arange(mean.numel(), dtype=torch.int64, device=x.device) < n // size
            mean = torch.where(longer, mean, mean * (size / (n % size)))
        return mean

    def spread(self, magnitudes: Tensor, numel: int) -> Tensor:
        """The magnitude of every entry of a flattened leaf, shape (numel,)."""
        size = min(self.block_size or numel, numel)
        return magnitudes[:, None].expand(-1, size).reshape(-1)[:numel]
