"""Which entries a mask keeps: by magnitude, N of M, whole blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.checks import can_read
from ..core.fields import static
from ..core.plain import Plain
from ..ops.selection import kth_largest, top_mask

OFFSET = 1e-4
"""What the published score adds to magnitudes: zeros that are kept stand above masked ones."""

_PIECE = 1 << 18  # entries whose scores are there at once


@dataclass(frozen=True)
class Support(Plain):
    """Base class of rules that choose masks from weights.

    Define ``choose``: bool masks, True where an entry is kept, shaped like the weights.
    """

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise where a leaf of this shape cannot be masked.

        Raises:
            ValueError: names the leaf.
        """

    def choose(self, weights: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        """New masks.

        Args:
            weights: of all leaves that are masked.
            masks: those that they have.
        """
        raise NotImplementedError(f"{type(self).__name__}: choose is not defined")


@dataclass(frozen=True)
class magnitude_support(Support):
    """Keep the entries of largest magnitude.

    Args:
        sparsity: share s of entries that are dropped, in [0, 1).
        scope: among all leaves, "global", or in every "leaf" by itself.
        count: how many of N are kept. "reference": those above the ceil(N (1 - sparsity))-th
            largest of (|w| + 1e-4) mask, which is one fewer, or more of them where values are
            equal. "exact": exactly ceil(N (1 - sparsity)), of equal ones the first. "floor":
            int(N (1 - sparsity)) of |w|, of equal ones the first, at least one.
        density: share of entries that are kept, in (0, 1], in place of ``sparsity``.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2106.12379.

    >>> import torch, gradtx as gx
    >>> w = torch.tensor([3.0, -1.0, 2.0, 0.5])
    >>> keep = gx.sparsity.magnitude_support(0.5, count="exact")
    >>> keep.choose([w], [torch.ones(4, dtype=torch.bool)])
    [tensor([ True, False,  True, False])]
    """

    sparsity: float | None = static(None, within="[0, 1)")
    scope: Literal["global", "leaf"] = "global"
    count: Literal["reference", "exact", "floor"] = "reference"
    density: float | None = static(None, within="(0, 1]")

    def __post_init__(self) -> None:
        if (self.sparsity is None) == (self.density is None):
            raise ValueError("magnitude_support: give sparsity or density")

    @property
    def share(self) -> float:
        """The share of entries that are kept."""
        if self.density is not None:
            return self.density
        assert self.sparsity is not None
        return 1 - self.sparsity

    def choose(self, weights: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        pairs = [(w.detach(), m) for w, m in zip(weights, masks, strict=True)]
        groups = [pairs] if self.scope == "global" else [[pair] for pair in pairs]
        return [mask for group in groups for mask in self._of(group)]

    def _of(self, group: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """The masks of leaves that are compared with each other."""
        n = sum(w.numel() for w, _ in group)
        share = n * self.share
        kept = math.ceil(share) if self.count != "floor" else max(int(share), 1)
        strict = self.count == "reference"
        if self.share == 1 or not n:
            return [torch.ones_like(m) for _, m in group]
        if all(can_read(w) for w, _ in group):
            return self._in_pieces(group, kept, strict)
        scores = torch.cat([self._score(w, m).reshape(-1) for w, m in group])
        flat = scores > scores.topk(kept).values[-1] if strict else top_mask(scores, kept)
        parts = flat.split([w.numel() for w, _ in group])
        return [part.reshape(w.shape) for part, (w, _) in zip(parts, group, strict=True)]

    def _in_pieces(
        self, group: list[tuple[Tensor, Tensor]], kept: int, strict: bool
    ) -> list[Tensor]:
        """The same without scores of all leaves at once."""
        found = kth_largest(lambda: (x for w, m in group for x in self._pieces(w, m)), kept)
        left = 0 if strict else kept - found.above  # of those that equal the threshold
        out = []
        for w, m in group:
            mask = torch.empty(w.numel(), dtype=torch.bool, device=w.device)
            for x, part in zip(self._pieces(w, m), mask.split(_PIECE), strict=True):
                torch.gt(x, found.value, out=part)
                equal = x == found.value if left else None
                if equal is not None and (count := int(equal.sum())):
                    part |= equal if count <= left else equal & (equal.cumsum(0) <= left)
                    left -= min(count, left)
            out.append(mask.reshape(w.shape))
        return out

    def _pieces(self, w: Tensor, mask: Tensor) -> Iterator[Tensor]:
        """Scores of consecutive entries, few enough to stay in cache."""
        both = zip(w.reshape(-1).split(_PIECE), mask.reshape(-1).split(_PIECE), strict=True)
        return (self._score(*pair) for pair in both)

    def _score(self, w: Tensor, mask: Tensor) -> Tensor:
        size = w.to(torch.float32).abs()
        return size if self.count == "floor" else (size + OFFSET) * mask


@dataclass(frozen=True)
class nm_support(Support):
    """Keep n of every m consecutive weights along the input dimension, the largest magnitudes.

    Matrices are grouped along their columns, convolutions (out, in, height, width) along their
    input channels. Of equal magnitudes the first are dropped.

    Args:
        n: entries that are kept of a group, >= 1.
        m: entries of a group, >= 2, > n.

    Raises:
        ValueError: a value outside its range; a leaf of another number of dimensions, or whose
            groups are not whole.

    Source: arXiv 2106.12379.

    >>> import torch, gradtx as gx
    >>> w = torch.tensor([[3.0, -1.0, 2.0, 0.5]])
    >>> gx.sparsity.nm_support(2, 4).choose([w], [torch.ones(1, 4, dtype=torch.bool)])
    [tensor([[ True, False,  True, False]])]
    """

    n: int = static(2, at_least=1)
    m: int = static(4, at_least=2)

    def __post_init__(self) -> None:
        if self.n >= self.m:
            raise ValueError(f"nm_support: n must be less than m, got n={self.n}, m={self.m}")

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        if len(shape) not in (2, 4) or math.prod(shape) % self.m:
            raise ValueError(
                f"nm_support: leaf {name!r} of shape {shape} must have 2 or 4 dimensions and a "
                f"number of elements that {self.m} divides; leave it out with prunable="
            )

    def choose(self, weights: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        return [self._groups(w) for w in weights]

    def _groups(self, w: Tensor) -> Tensor:
        size = w.detach().to(torch.float32).abs()
        if w.ndim == 4:
            size = size.permute(0, 2, 3, 1)
        groups = size.reshape(-1, self.m)
        order = groups.argsort(dim=1, stable=True)
        kept = torch.ones_like(groups, dtype=torch.bool)
        kept = kept.scatter(1, order[:, : self.m - self.n], False).reshape(size.shape)
        return (kept.permute(0, 3, 1, 2) if w.ndim == 4 else kept).contiguous()


@dataclass(frozen=True)
class block_support(Support):
    """Keep whole blocks of consecutive entries of a leaf, those with the largest sums of |w|.

    Args:
        sparsity: share of all blocks that are dropped, in [0, 1).
        block: entries of a block, >= 1; it divides the number of entries of every leaf.

    Raises:
        ValueError: a value outside its range, or a leaf that blocks do not fill.

    >>> import torch, gradtx as gx
    >>> w = torch.tensor([3.0, -1.0, 2.0, 0.5])
    >>> gx.sparsity.block_support(0.5, 2).choose([w], [torch.ones(4, dtype=torch.bool)])
    [tensor([ True,  True, False, False])]
    """

    sparsity: float = static(within="[0, 1)")
    block: int = static(4, at_least=1)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        if math.prod(shape) % self.block:
            raise ValueError(
                f"block_support: leaf {name!r} of shape {shape} has a number of elements that "
                f"{self.block} does not divide; leave it out with prunable="
            )

    def choose(self, weights: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        sums = [w.detach().float().abs().reshape(-1, self.block).sum(dim=1) for w in weights]
        every = torch.cat(sums)
        kept = top_mask(every, max(math.ceil(len(every) * (1 - self.sparsity)), 1))
        parts = kept.split([len(s) for s in sums])
        return [
            part.repeat_interleave(self.block).reshape(w.shape)
            for part, w in zip(parts, weights, strict=True)
        ]
