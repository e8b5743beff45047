"""Formats that replace short vectors by the nearest word of a codebook."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..core.fields import static
from .format import SCALE_BITS, Format, root_mean_square
from .normal import REACH, cell_error
from .scalar import Scaled
from .sparse import check_divides

Words = tuple[tuple[float, ...], ...]
_AT_ONCE = 1 << 22  # distances held in memory


@dataclass(frozen=True, repr=False)
class vector_codebook(Format):
    """Replace every d numbers in a row by the nearest of K words; of equally near ones, the first.

    Args:
        words: K words of d numbers each, a matrix (K, d): a tensor, an array or nested sequences.
        scale: what the words are multiplied by, > 0; None for the leaf's root mean square.

    Raises:
        ValueError: words that are no matrix of finite numbers, or a leaf that d does not divide.

    Source: arXiv 2506.01863.

    >>> import torch, gradtx as gx
    >>> vq = gx.capacity.vector_codebook([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], scale=1.0)
    >>> vq(torch.tensor([0.9, 0.2, -0.1, 3.0]))
    tensor([1., 0., 0., 1.])
    """

    words: Any = ((0.0,),)
    scale: float | None = static(None, within="(0, inf)")

    def __post_init__(self) -> None:
        words = torch.as_tensor(self.words, dtype=torch.float64, device="cpu")
        if words.ndim != 2 or not words.numel():
            raise ValueError(
                f"vector_codebook: words must be a matrix (K, d), got shape {tuple(words.shape)}"
            )
        if not words.isfinite().all():
            raise ValueError("vector_codebook: words must be finite")
        # As numbers, so that the format can be compared and is never changed.
        object.__setattr__(self, "words", tuple(map(tuple, words.tolist())))

    @property
    def dim(self) -> int:
        """Numbers in a word."""
        return len(self.words[0])

    def encode(self, x: Tensor) -> Scaled:
        check_divides("vector_codebook", "the length of words", self.dim, x)
        if self.scale is None:
            scale = root_mean_square(x).to(x.dtype)
        else:
            scale = torch.full((), self.scale, dtype=x.dtype, device=x.device)
        return Scaled(_nearest((x / scale).reshape(-1, self.dim), self._table(x)), scale)

    def decode(self, code: Scaled, like: Tensor) -> Tensor:
        return (self._table(like)[code.codes.long()] * code.scale).reshape(like.shape)

    def bits_per_value(self, shape: Sequence[int]) -> float:
        side = 0.0 if self.scale else SCALE_BITS / max(torch.Size(shape).numel(), 1)
        return math.log2(len(self.words)) / self.dim + side

    def exact_gmse(self) -> float | None:
        """By integration for words of one or two numbers."""
        words = tuple(tuple((self.scale or 1.0) * x for x in word) for word in self.words)
        if self.dim == 1:
            return _line_error(tuple(sorted(word[0] for word in words)))
        return _plane_error(words) if self.dim == 2 else None

    def _table(self, like: Tensor) -> Tensor:
        """(K, d)."""
        return torch.tensor(self.words, dtype=like.dtype, device=like.device)


def _nearest(vectors: Tensor, words: Tensor) -> Tensor:
    """Index of the nearest word of every vector, int32 (n,)."""
    found = []
    for part in vectors.split(max(1, _AT_ONCE // words.numel())):
        squares = (part[:, None, :] - words).square().sum(-1)  # (part, K)
        found.append(squares.argmin(1).to(torch.int32))
    return torch.cat(found) if found else vectors.new_zeros(0, dtype=torch.int32)


def _line_error(words: Sequence[float]) -> float:
    """GMSE of words of one number, ascending."""
    middles = [0.5 * (a + b) for a, b in itertools.pairwise(words)]
    ends = [-math.inf, *middles, math.inf]
    return sum(
        # Both sides of zero by themselves: cells of the integrals lie above it.
        cell_error(max(a, 0.0), max(b, 0.0), word) + cell_error(max(-b, 0.0), max(-a, 0.0), -word)
        for a, b, word in zip(ends, ends[1:], words, strict=False)
    )


@lru_cache(maxsize=16)
def _plane_error(words: Words) -> float:
    """GMSE of words of two numbers, by the midpoint rule on a grid."""
    n = 1536
    table = torch.tensor(words, dtype=torch.float64, device="cpu")
    places = torch.arange(n, dtype=torch.float64, device="cpu").add(0.5).mul(2 * REACH / n) - REACH
    weights = torch.exp(-0.5 * places.square())
    weights = weights / weights.sum()
    # |z - c|² = |z|² - 2 z c + |c|², of which the first part does not depend on the word.
    by_row = table[:, 0].square()[:, None] - 2.0 * table[:, :1] * places  # (K, n)
    by_column = table[:, 1].square()[:, None] - 2.0 * table[:, 1:] * places
    least = torch.stack([(row[:, None] + by_column).amin(0) for row in by_row.unbind(1)])  # (n, n)
    return float(0.5 * (weights @ least @ weights + 2.0 * (weights * places.square()).sum()))
