"""Quantizers that round every number by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.fields import static
from ..core.tree import accumulator, accumulator_dtype
from .format import SCALE_BITS, Format, root_mean_square
from .lloyd import best_levels
from .normal import minimise, quantizer_error, threshold_of


class Scaled(NamedTuple):
    """Attributes: ``codes``, an integer per element; ``scale``, 0-d, what they are multiples of."""

    codes: Tensor
    scale: Tensor


@dataclass(frozen=True, repr=False)
class ScalarQuantizer(Format):
    """What quantizers with the same levels on both sides of zero have in common."""

    bits: int = static(4, at_least=1)

    least_bits: ClassVar[int] = 1
    most_bits: ClassVar[int] = 16
    quiet: ClassVar[tuple[str, ...]] = ("share",)

    def __post_init__(self) -> None:
        if not self.least_bits <= self.bits <= self.most_bits:
            span = f"[{self.least_bits}, {self.most_bits}]"
            raise ValueError(f"{type(self).__name__}: bits must be in {span}, got {self.bits}")

    def levels(self) -> tuple[float, ...]:
        """The levels >= 0, ascending, for normal numbers."""
        raise NotImplementedError

    def exact_gmse(self) -> float:
        return quantizer_error(self.levels())

    def error_above(self, threshold: float) -> float:
        """Error on normal numbers of magnitude above a threshold; of the others none."""
        return quantizer_error(self.levels(), threshold)

    def bits_per_value(self, shape: Sequence[int]) -> float:
        return self.bits + SCALE_BITS / max(torch.Size(shape).numel(), 1)

    def _stored(self, codes: Tensor) -> Tensor:
        return codes.to(torch.int8 if self.bits <= 8 else torch.int32)


@dataclass(frozen=True, repr=False)
class _Uniform(ScalarQuantizer):
    """Evenly spaced levels."""

    step: float | None = static(None, within="(0, inf)")
    share: float = static(1.0, within="(0, 1]")

    def for_share(self, share: float) -> Format:
        return replace(self, share=share)

    @property
    def normal_step(self) -> float:
        """The distance of levels for normal numbers."""
        if self.step is not None:
            return self.step
        return _best_step(isinstance(self, uniform_midrise), self.bits, self.share)

    def _step_for(self, x: Tensor) -> Tensor:
        if self.step is not None:
            return torch.full((), self.step, dtype=accumulator_dtype(x.dtype), device=x.device)
        return self.normal_step * root_mean_square(x)


@dataclass(frozen=True, repr=False)
class uniform_midrise(_Uniform):
    """Round to one of 2^bits evenly spaced levels, none of which is zero.

    c = clamp(floor(x / step), -2^(bits-1), 2^(bits-1) - 1), back x = (c + 1/2) step.

    Args:
        bits: in [1, 16].
        step: distance of levels, > 0; None for what is best for normal numbers whose mean square
            is the leaf's.
        share: choose that step for the numbers of largest magnitude, this share of all.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2506.01863.

    >>> import torch, gradtx as gx
    >>> gx.capacity.uniform_midrise(2, step=1.0)(torch.tensor([0.0, -0.2, 1.7, 9.0]))
    tensor([ 0.5000, -0.5000,  1.5000,  1.5000])
    >>> round(gx.capacity.uniform_midrise(4).exact_gmse(), 6)
    0.011543
    """

    def levels(self) -> tuple[float, ...]:
        return midrise_levels(self.bits, self.normal_step)

    def encode(self, x: Tensor) -> Scaled:
        step, half = self._step_for(x), 2 ** (self.bits - 1)
        return Scaled(self._stored(torch.floor(accumulator(x) / step).clamp(-half, half - 1)), step)

    def decode(self, code: Scaled, like: Tensor) -> Tensor:
        return ((code.codes.to(code.scale.dtype) + 0.5) * code.scale).to(like.dtype)


@dataclass(frozen=True, repr=False)
class uniform_midtread(_Uniform):
    """Round to one of 2^bits - 1 evenly spaced levels, zero among them; halves to even.

    c = clamp(round(x / step), -m, m) with m = 2^(bits-1) - 1, back x = c step.

    Args:
        bits: in [2, 16]; 2 is ternary.
        step, share: as in ``uniform_midrise``.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2506.01863.

    >>> import torch, gradtx as gx
    >>> gx.capacity.uniform_midtread(2, step=1.0)(torch.tensor([0.5, -0.7, 9.0]))
    tensor([ 0., -1.,  1.])
    """

    least_bits: ClassVar[int] = 2

    def levels(self) -> tuple[float, ...]:
        return midtread_levels(self.bits, self.normal_step)

    def encode(self, x: Tensor) -> Scaled:
        step, most = self._step_for(x), 2 ** (self.bits - 1) - 1
        return Scaled(self._stored(torch.round(accumulator(x) / step).clamp(-most, most)), step)

    def decode(self, code: Scaled, like: Tensor) -> Tensor:
        return (code.codes.to(code.scale.dtype) * code.scale).to(like.dtype)


@dataclass(frozen=True, repr=False)
class lloyd_max(ScalarQuantizer):
    """Round to the 2^bits levels with the least error on normal numbers.

    Levels are the means of their cells, cells end half way between levels.

    Args:
        bits: in [1, 10].
        scale: what the levels are multiplied by, > 0; None for the leaf's root mean square.
        share: choose them for the numbers of largest magnitude, this share of all.

    Raises:
        ValueError: a value outside its range.

    Source: Lloyd 1982, Max 1960; arXiv 2506.01863.

    >>> import gradtx as gx
    >>> [round(x, 4) for x in gx.capacity.lloyd_max(2).levels()]
    [0.4528, 1.5104]
    """

    most_bits = 10

    scale: float | None = static(None, within="(0, inf)")
    share: float = static(1.0, within="(0, 1]")

    def for_share(self, share: float) -> Format:
        return replace(self, share=share)

    def levels(self) -> tuple[float, ...]:
        return best_levels(2 ** (self.bits - 1), threshold_of(self.share))

    def exact_gmse(self) -> float:
        return self.error_above(0.0)

    def error_above(self, threshold: float) -> float:
        scale = self.scale or 1.0
        return quantizer_error([scale * level for level in self.levels()], threshold)

    def encode(self, x: Tensor) -> Scaled:
        if self.scale is None:
            scale = root_mean_square(x)
        else:
            scale = torch.full((), self.scale, dtype=accumulator_dtype(x.dtype), device=x.device)
        all_levels = self._all(x)
        middles = 0.5 * (all_levels[1:] + all_levels[:-1])
        shares = (accumulator(x) / scale).contiguous()
        codes = torch.bucketize(shares, middles) - 2 ** (self.bits - 1)
        return Scaled(self._stored(codes), scale)

    def decode(self, code: Scaled, like: Tensor) -> Tensor:
        back = self._all(like)[code.codes.long() + 2 ** (self.bits - 1)] * code.scale
        return back.to(like.dtype)

    def _all(self, like: Tensor) -> Tensor:
        """All levels, ascending, (2^bits,)."""
        upper = self.levels()
        both = [*(-level for level in reversed(upper)), *upper]
        return torch.tensor(both, dtype=accumulator_dtype(like.dtype), device=like.device)


def midrise_levels(bits: int, step: float) -> tuple[float, ...]:
    """The levels above zero of ``uniform_midrise``."""
    return tuple((j + 0.5) * step for j in range(2 ** (bits - 1)))


def midtread_levels(bits: int, step: float) -> tuple[float, ...]:
    """The levels of ``uniform_midtread`` that are not below zero."""
    return tuple(j * step for j in range(2 ** (bits - 1)))


@lru_cache(maxsize=256)
def _best_step(midrise: bool, bits: int, share: float) -> float:
    """The step with the least error on normal numbers above the threshold of a share."""
    levels = midrise_levels if midrise else midtread_levels
    above, n = threshold_of(share), 2 ** (bits - 1)
    far = max(9.0, 2.0 * (above + 1.0))  # twice the level of one bit, which lies above all others
    return minimise(lambda step: quantizer_error(levels(bits, step), above), 0.5 / n, far / n)
