"""Compressors that keep some entries of a leaf."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..core.fields import static
from ..core.leaves import SparseUpdate
from ..core.random import Seed, derived_key, next_key, seed_field, uniform
from ..ops.block_top_k import block_starts
from .compressor import Compressor, Payload

_INT16_MAX = torch.iinfo(torch.int16).max


@dataclass(frozen=True)
class Blocks:
    """How the entries of a flattened leaf are chosen: some of every block.

    Attributes:
        numel: elements of the leaf.
        size: elements of a block; the last one is shorter where ``size`` does not divide ``numel``.
        k: entries kept of every full block.
        k_tail: entries kept of the shorter one, 0 if there is none.
        dtype: of positions inside a block.

    >>> import gradtx as gx
    >>> blocks = gx.compressors.block_top_k(0.07, block_size=100).blocks(231)
    >>> blocks.k, blocks.k_tail, blocks.kept
    (8, 3, 19)
    """

    numel: int
    size: int
    k: int
    k_tail: int
    dtype: torch.dtype

    @staticmethod
    def of_density(
        numel: int, size: int, density: float, dtype: torch.dtype, up: bool = True
    ) -> Blocks:
        """Keep ``ceil(n * density)`` of every block of n elements, the product in float64."""
        size = max(min(numel, size), 1)
        rounded = math.ceil if up else math.floor
        k, k_tail = (rounded(n * density) for n in (size, numel % size))
        return Blocks(numel, size, k, k_tail, dtype)

    @property
    def kept(self) -> int:
        """Entries kept of the leaf."""
        return self.numel // self.size * self.k + self.k_tail

    def starts(self, device: torch.device) -> Tensor | None:
        """Where the block of every kept entry begins, int64 (kept,); None if there is one block."""
        if self.size >= self.numel:
            return None
        return block_starts(self.kept, self.k, self.size, device)


@dataclass(frozen=True, repr=False)
class SparseCompressor(Compressor):
    """Base class of compressors whose number of kept entries follows from the leaf's size."""

    def blocks(self, numel: int) -> Blocks:
        """The layout of what is kept of a leaf."""
        raise NotImplementedError

    def choose(self, flat: Tensor, blocks: Blocks) -> Tensor:
        """Positions of the largest magnitudes, ties to the lower index."""
        return ops.block_top_k(flat, blocks.size, blocks.k, blocks.k_tail, blocks.dtype)

    def compress(self, x: Tensor, state: Any) -> tuple[SparseUpdate, Any]:
        flat, blocks = x.reshape(-1), self.blocks(x.numel())
        if blocks.numel and not blocks.k:
            raise ValueError(f"{type(self).__name__}: keeps none of {blocks.numel} entries")
        indices = self.choose(flat.detach(), blocks)
        starts = blocks.starts(x.device)
        values = flat[_positions(indices, starts)]
        return SparseUpdate(indices, values, tuple(x.shape), starts), state

    def residual(self, x: Tensor, payload: Payload) -> Tensor:
        """``x`` with the kept entries set to zero."""
        assert isinstance(payload, SparseUpdate)
        where = _positions(payload.indices, payload.offsets)
        zeros = torch.zeros_like(payload.values, dtype=x.dtype)
        return x.reshape(-1).index_put((where,), zeros).reshape(x.shape)


@dataclass(frozen=True, repr=False)
class top_k(SparseCompressor):
    """Keep the entries of a leaf that have the largest magnitudes; of equal ones, the first.

    What is dropped obeys |x - C(x)|^2 <= (1 - k / n) |x|^2.

    Args:
        density: share of entries, in (0, 1]; ``ceil(n * density)`` are kept.
        k: number of entries instead, >= 1; smaller leaves are kept whole.
        rounding: "down" keeps ``floor(n * density)``.

    Raises:
        ValueError: not exactly one of both, or a value outside its range; from ``compress``,
            nothing would be kept.

    Source: arXiv 1809.07599.

    >>> import torch, gradtx as gx
    >>> payload, _ = gx.compressors.top_k(0.5).compress(torch.tensor([1.0, -4.0, 2.0, 1.0]), ())
    >>> payload.indices, payload.values
    (tensor([1, 2], dtype=torch.int32), tensor([-4.,  2.]))
    """

    density: float | None = static(None, within="(0, 1]")
    k: int | None = static(None, at_least=1)
    rounding: Literal["up", "down"] = "up"

    def __post_init__(self) -> None:
        if (self.density is None) == (self.k is None):
            raise ValueError("top_k: give either density or k")

    def blocks(self, numel: int) -> Blocks:
        small = numel <= torch.iinfo(torch.int32).max
        dtype = torch.int32 if small else torch.int64
        if self.k is None:
            assert self.density is not None
            return Blocks.of_density(numel, numel, self.density, dtype, self.rounding == "up")
        return Blocks(numel, max(numel, 1), min(self.k, max(numel, 1)), 0, dtype)


def _check_block(who: str, name: str, size: Any) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _INT16_MAX:
        raise ValueError(f"{who}: {name} must be an integer in [1, {_INT16_MAX}], got {size!r}")


@dataclass(frozen=True, repr=False)
class block_top_k(SparseCompressor):
    """Keep the largest magnitudes of every block of a leaf; of equal ones, the first.

    The leaf is flattened row by row. Positions inside a block are int16, and blocks can be
    treated in parallel.

    Args:
        density: share of entries, in (0, 1]; ``ceil(n * density)`` of a block of n are kept.
        block_size: elements of a block, in [1, 32767].

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2405.15593.

    >>> import torch, gradtx as gx
    >>> c = gx.compressors.block_top_k(0.5, block_size=2)
    >>> payload, _ = c.compress(torch.tensor([1.0, -4.0, 2.0, 1.0]), ())
    >>> payload.indices, payload.offsets, payload.values
    (tensor([1, 0], dtype=torch.int16), tensor([0, 2]), tensor([-4.,  2.]))
    """

    density: float = static(0.01, within="(0, 1]")
    block_size: int = static(16384, check=_check_block)

    def blocks(self, numel: int) -> Blocks:
        return Blocks.of_density(numel, self.block_size, self.density, torch.int16)


class RandomKState(NamedTuple):
    """Attributes: ``key``, int64 (2,), the leaf's random numbers and their position."""

    key: Tensor


@dataclass(frozen=True, repr=False)
class random_k(SparseCompressor):
    """Keep entries of every block at random, all sets being equally likely.

    Args:
        density: share of entries, in (0, 1]; ``ceil(n * density)`` of a block of n are kept.
        block_size: elements of a block, in [1, 32767].
        unbiased: divide what is kept by its share, so that the mean is the update itself. Not
            together with error feedback, which would diverge.
        seed: an integer of at most 64 bits, or a 0-d integer tensor.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 1809.07599.

    >>> import torch, gradtx as gx
    >>> c = gx.compressors.random_k(0.25, unbiased=True)
    >>> payload, _ = c.compress(torch.ones(8), c.init(torch.ones(8)))
    >>> payload.values
    tensor([4., 4.])
    """

    density: float = static(0.01, within="(0, 1]")
    block_size: int = static(16384, check=_check_block)
    unbiased: bool = False
    seed: Seed = seed_field()

    def blocks(self, numel: int) -> Blocks:
        return Blocks.of_density(numel, self.block_size, self.density, torch.int16)

    def init(self, p: Tensor, name: str = "") -> RandomKState:
        return RandomKState(derived_key(self.seed, name, p.device))

    def compress(self, x: Tensor, state: RandomKState) -> tuple[SparseUpdate, RandomKState]:
        blocks, device = self.blocks(x.numel()), x.device
        # The largest of independent uniform numbers: a set of positions without repetition.
        indices = self.choose(uniform(state.key, (x.numel(),)), blocks)
        starts = blocks.starts(device)
        values = x.reshape(-1)[_positions(indices, starts)]
        if self.unbiased:
            full = blocks.kept - blocks.k_tail
            tail = torch.arange(blocks.kept, dtype=torch.int64, device=device) >= full
            last = blocks.numel % blocks.size / max(blocks.k_tail, 1)
            values = values * torch.where(tail, last, blocks.size / blocks.k).to(values.dtype)
        return SparseUpdate(indices, values, tuple(x.shape), starts), RandomKState(
            next_key(state.key)
        )

    def nbits(self, payload: Payload) -> float:
        """The values alone: everybody can draw their positions."""
        assert isinstance(payload, SparseUpdate)
        return 8.0 * payload.values.numel() * payload.values.element_size()

    def residual(self, x: Tensor, payload: Payload) -> Tensor:
        kind = Compressor if self.unbiased else SparseCompressor
        return kind.residual(self, x, payload)


def _positions(indices: Tensor, starts: Tensor | None) -> Tensor:
    """Positions in the flattened leaf."""
    return indices.long() if starts is None else indices.long() + starts
