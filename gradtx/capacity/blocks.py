"""Formats with one scale a block: the largest magnitude in it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.fields import static
from ..core.tree import accumulator, accumulator_dtype
from .format import SCALE_BITS, Format
from .normal import cell_error, density, integrate, magnitude_cdf
from .sparse import check_divides

_NF4_POSITIVE = (
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_NF4_NEGATIVE = (
    *(0.09105003625154495, 0.18477343022823334, 0.28444138169288635, 0.39491748809814453),
    *(0.5250730514526367, 0.6961928009986877, 1.0),
)
_E2M1 = tuple(x / 6.0 for x in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0))


def _integers(most: int) -> tuple[float, ...]:
    return tuple(j / most for j in range(most + 1))


# name -> bits, levels above zero and levels below it by magnitude, over the block's largest.
_KINDS: dict[str, tuple[int, tuple[float, ...], tuple[float, ...]]] = {
    "int4": (4, _integers(7), _integers(7)),
    "int8": (8, _integers(127), _integers(127)),
    "nf4": (4, (0.0, *_NF4_POSITIVE), (0.0, *_NF4_NEGATIVE)),
    "fp4": (4, _E2M1, _E2M1),
}


class Blocks(NamedTuple):
    """Attributes: ``codes``, int16 (blocks, block), indices of levels; ``scale``, (blocks, 1)."""

    codes: Tensor
    scale: Tensor


@dataclass(frozen=True, repr=False)
class absmax(Format):
    """Round to the nearest of few levels between -s and s, s the largest magnitude of a block.

    Integers are symmetric (-7 to 7, -127 to 127) and round halves to even, the other kinds round
    them to the lower level. Blocks run over the flattened leaf.

    Args:
        kind: "int4", "int8", "nf4" or "fp4" (E2M1).
        block: elements that share a scale, >= 2; it divides the leaf's size. A scale counts as 16
            bits and is stored exactly.

    Raises:
        ValueError: an unknown kind, a block below 2, or a leaf that it does not divide.

    Source: arXiv 2305.14314 (nf4), arXiv 2506.01863.

    >>> import torch, gradtx as gx
    >>> nf4 = gx.capacity.absmax("nf4", block=64)
    >>> nf4.bits_per_value((64,)), round(nf4.exact_gmse(), 5)
    (4.25, 0.00846)
    """

    kind: str = static("int4", choices=tuple(_KINDS))
    block: int = static(64, at_least=2)

    def encode(self, x: Tensor) -> Blocks:
        check_divides("absmax", "block", self.block, x)
        blocks = accumulator(x).reshape(-1, self.block)
        scale = blocks.abs().amax(1, keepdim=True)
        safe = torch.where(scale > 0, scale, torch.ones_like(scale))
        levels = self._levels(x)
        if self.kind.startswith("int"):
            most = levels.numel() // 2
            codes = torch.round(blocks / safe * most) + most
        else:
            codes = torch.bucketize(blocks / safe, 0.5 * (levels[1:] + levels[:-1]))
        return Blocks(codes.to(torch.int16), scale)

    def decode(self, code: Blocks, like: Tensor) -> Tensor:
        back = self._levels(like)[code.codes.long()] * code.scale
        return back.reshape(like.shape).to(like.dtype)

    def bits_per_value(self, shape: Sequence[int]) -> float:
        return _KINDS[self.kind][0] + SCALE_BITS / self.block

    def exact_gmse(self) -> float:
        _, above, below = _KINDS[self.kind]
        return 0.5 * (_block_error(above, self.block) + _block_error(below, self.block))

    def _levels(self, like: Tensor) -> Tensor:
        """All levels, ascending, without the second zero."""
        _, above, below = _KINDS[self.kind]
        both = [*(-x for x in reversed(below[1:])), *above]
        return torch.tensor(both, dtype=accumulator_dtype(like.dtype), device=like.device)


@lru_cache(maxsize=64)
def _block_error(levels: tuple[float, ...], block: int) -> float:
    """Mean square error of a block of normal numbers whose largest magnitude is the scale.

    The largest has no error. Given that it is s, the others are independent normal numbers of
    magnitude below s, so that one integral over s is left.
    """
    middles = [0.5 * (a + b) for a, b in itertools.pairwise(levels)]
    ends = [0.0, *middles, 1.0]

    def below(s: float) -> float:
        """Error of a number whose magnitude is below s, times the chance that it is."""
        return 2.0 * sum(
            cell_error(a * s, b * s, level * s)
            for a, b, level in zip(ends, ends[1:], levels, strict=False)
        )

    def weighted(s: float) -> float:
        largest = block * 2.0 * density(s) * magnitude_cdf(s) ** (block - 2)
        return largest * (block - 1) / block * below(s)

    return integrate(weighted, 0.0, _far(block), pieces=16)


def _far(block: int) -> float:
    """A magnitude that none of a block reaches but with probability 1e-18."""
    return math.sqrt(2.0 * math.log(block) + 90.0)
