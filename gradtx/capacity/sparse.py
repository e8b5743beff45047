"""Formats that keep some numbers and drop the others, and formats one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..compressors import top_k
from ..core.fields import static
from .format import Format
from .normal import density, integrate, magnitude_cdf, pruned_error, threshold_of
from .scalar import ScalarQuantizer

_TAIL = 12.0  # of magnitudes; what lies beyond has no weight in float64


class Kept(NamedTuple):
    """Attributes: ``mask``, bool, what is kept; ``values``, the leaf with zeros elsewhere."""

    mask: Tensor
    values: Tensor


@dataclass(frozen=True, repr=False)
class Sparsifier(Format):
    """Base class of formats that set entries to zero and leave the others as they are."""

    def mask(self, x: Tensor) -> Tensor:
        """What is kept of ``x``, bool."""
        raise NotImplementedError

    def kept_share(self) -> float:
        """How much of a leaf is kept."""
        raise NotImplementedError

    def mask_bits(self) -> float:
        """Bits a value that say which entries are kept."""
        raise NotImplementedError

    value_bits: ClassVar[float] = 16.0  # of what is kept, where nothing quantizes it

    def encode(self, x: Tensor) -> Kept:
        mask = self.mask(x)
        return Kept(mask, torch.where(mask, x, torch.zeros_like(x)))

    def decode(self, code: Kept, like: Tensor) -> Tensor:
        return code.values

    def bits_per_value(self, shape: Sequence[int]) -> float:
        return self.kept_share() * self.value_bits + self.mask_bits()


@dataclass(frozen=True, repr=False)
class prune(Sparsifier):
    """Keep the numbers of largest magnitude, a share of all; of equal ones, the first.

    Values count as 16 bits, the mask as the entropy of its bits.

    Args:
        density: share of entries, in (0, 1]; ``ceil(n * density)`` are kept.

    Raises:
        ValueError: a density outside its range.

    Source: arXiv 2506.01863.

    >>> import torch, gradtx as gx
    >>> half = gx.capacity.prune(0.5)
    >>> half(torch.tensor([1.0, -4.0, 2.0, 1.0]))
    tensor([ 0., -4.,  2.,  0.])
    >>> half.bits_per_value((4,)), round(half.exact_gmse(), 6)
    (9.0, 0.071326)
    """

    density: float = static(0.5, within="(0, 1]")

    def mask(self, x: Tensor) -> Tensor:
        return largest(x, self.density)

    def kept_share(self) -> float:
        return self.density

    def mask_bits(self) -> float:
        return entropy(self.density)

    def exact_gmse(self) -> float:
        return pruned_error(threshold_of(self.density))


@dataclass(frozen=True, repr=False)
class n_of_m(Sparsifier):
    """Keep the n numbers of largest magnitude of every m in a row; of equal ones, the first.

    Values count as 16 bits, the mask as log2 of the number of its forms.

    Args:
        n: how many are kept, >= 1.
        m: of how many, >= n; it divides the leaf's size.

    Raises:
        ValueError: numbers that are not so, or a leaf that m does not divide.

    Source: arXiv 2506.01863.

    >>> import torch, gradtx as gx
    >>> gx.capacity.n_of_m(2, 4)(torch.tensor([1.0, -4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.0]))
    tensor([ 0., -4.,  2.,  0.,  1.,  1.,  0.,  0.])
    >>> round(gx.capacity.n_of_m(1, 2).exact_gmse(), 5)  # 1/2 - 1/pi
    0.18169
    """

    n: int = static(2, at_least=1)
    m: int = static(4, at_least=1)

    def __post_init__(self) -> None:
        if self.n > self.m:
            raise ValueError(f"n_of_m: n must be at most m, got {self.n} of {self.m}")

    def mask(self, x: Tensor) -> Tensor:
        check_divides("n_of_m", "m", self.m, x)
        groups = x.detach().abs().reshape(-1, self.m)  # (groups, m)
        order = torch.sort(groups, dim=1, descending=True, stable=True).indices
        mask = torch.zeros_like(groups, dtype=torch.bool)
        return mask.scatter(1, order[:, : self.n], True).reshape(x.shape)

    def kept_share(self) -> float:
        return self.n / self.m

    def mask_bits(self) -> float:
        return math.log2(math.comb(self.m, self.n)) / self.m

    def exact_gmse(self) -> float:
        dropped = range(1, self.m - self.n + 1)
        return sum(_square_of_ith(i, self.m) for i in dropped) / self.m


@dataclass(frozen=True, repr=False)
class composed(Format):
    """One format behind the other; what the first sets to zero the second does not see.

    Args:
        first: usually a sparsifier.
        second: usually a quantizer. If it may choose its step, it does so for what the first
            keeps.

    Raises:
        TypeError: one of them is no format.

    >>> import gradtx as gx
    >>> both = gx.capacity.compose([gx.capacity.prune(0.5), gx.capacity.uniform_midrise(4)])
    >>> round(both.exact_gmse(), 6), round(both.bits_per_value((1 << 20,)), 3)
    (0.078148, 3.0)
    """

    first: Format
    second: Format

    @property
    def _inner(self) -> Format:
        """The second format, made for what the first one keeps."""
        if not isinstance(self.first, Sparsifier):
            return self.second
        return self.second.for_share(self.first.kept_share())

    def __repr__(self) -> str:
        return f"compose([{self.first!r}, {self.second!r}])"

    def encode(self, x: Tensor) -> Any:
        if not isinstance(self.first, Sparsifier):
            return self._inner.encode(self.first(x))
        mask = self.first.mask(x)
        # The step is relative to the whole leaf, so the second format is given all of it.
        return mask, self._inner.encode(x)

    def decode(self, code: Any, like: Tensor) -> Tensor:
        if not isinstance(self.first, Sparsifier):
            return self._inner.decode(code, like)
        mask, inner = code
        back = self._inner.decode(inner, like)
        return torch.where(mask, back, torch.zeros_like(back))

    def bits_per_value(self, shape: Sequence[int]) -> float:
        if not isinstance(self.first, Sparsifier):
            return self.second.bits_per_value(shape)
        share = self.first.kept_share()
        return share * self.second.bits_per_value(shape) + self.first.mask_bits()

    def exact_gmse(self) -> float | None:
        """Known for pruning in front of a quantizer of single numbers."""
        inner = self._inner
        if not isinstance(self.first, prune) or not isinstance(inner, ScalarQuantizer):
            return None
        threshold = threshold_of(self.first.density)
        return pruned_error(threshold) + inner.error_above(threshold)


def largest(x: Tensor, share: float) -> Tensor:
    """Mask of ``ceil(n share)`` entries of largest magnitude, of equal ones the first."""
    payload, _ = top_k(density=share).compress(x.detach(), ())
    mask = torch.zeros(x.numel(), dtype=torch.bool, device=x.device)
    return mask.index_fill(0, payload.indices.long(), True).reshape(x.shape)


def entropy(share: float) -> float:
    """Bits of a yes or no of which a share is yes."""
    return -sum(p * math.log2(p) for p in (share, 1.0 - share) if p > 0)


def check_divides(who: str, name: str, size: int, x: Tensor) -> None:
    """Raise unless blocks of a size fill the leaf.

    Raises:
        ValueError: names the size and the leaf's.
    """
    if x.numel() % size:
        raise ValueError(
            f"{who}: {name} must divide the number of elements, got {size} for {x.numel()}"
        )


def _square_of_ith(i: int, m: int) -> float:
    """The mean square of the i-th smallest of m magnitudes."""
    ways = math.factorial(m) / (math.factorial(i - 1) * math.factorial(m - i))

    def weighted(x: float) -> float:
        below = magnitude_cdf(x)
        above = math.erfc(x / math.sqrt(2.0))
        return x * x * below ** (i - 1) * above ** (m - i) * 2.0 * density(x)

    return ways * integrate(weighted, 0.0, _TAIL)
