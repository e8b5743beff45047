"""What stands at a leaf: its description, and updates that are not dense tensors.

A structured update is a leaf of the update tree (not a node), so a chain may hand a compressed or
projected gradient from the member that makes it to the members that understand it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .autocast import outside_autocast
from .watch import is_recorded, is_watched


@dataclass(frozen=True)
class LeafInfo:
    """What is known of a leaf before its values: predicates and size rules read this.

    Attributes:
        name: dotted path in the parameter tree, ``"blocks.0.weight"``.
        shape: global shape (of the whole parameter, also when it is sharded).
        dtype: dtype of the parameter.
        device: device of the parameter.
        placements: DTensor placements, or None for an ordinary tensor.

    >>> import torch, gradtx as gx
    >>> info = gx.LeafInfo.of(torch.zeros(3, 2), "head.weight")
    >>> info.ndim, info.numel
    (2, 6)
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    placements: tuple[Any, ...] | None = None

    @staticmethod
    def of(leaf: Any, name: str = "") -> LeafInfo:
        """Describe a tensor or a structured update."""
        return LeafInfo(
            name, tuple(leaf.shape), leaf.dtype, leaf.device, getattr(leaf, "placements", None)
        )

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class SparseUpdate:
    """Kept entries of a flattened leaf; everything else is zero.

    Attributes:
        indices: integer tensor (k,), positions inside their block, or in the leaf if block is None.
        values: tensor (k,).
        shape: shape of the dense leaf.
        offsets: int64 tensor (k,) of block starts to add to ``indices``, or None.

    >>> import torch, gradtx as gx
    >>> u = gx.SparseUpdate(torch.tensor([0, 3]), torch.tensor([1.0, -2.0]), (2, 2))
    >>> u.to_dense().tolist()
    [[1.0, 0.0], [0.0, -2.0]]
    """

    indices: Tensor
    values: Tensor
    shape: tuple[int, ...]
    offsets: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Device of the values."""
        return self.values.device

    def map(self, fn: Callable[[Tensor], Tensor]) -> SparseUpdate:
        """Apply a linear elementwise function to what is kept."""
        return SparseUpdate(self.indices, fn(self.values), self.shape, self.offsets)

    def to_dense(self) -> Tensor:
        """The leaf as an ordinary tensor."""
        where = self.indices.long() if self.offsets is None else self.indices.long() + self.offsets
        zeros = self.values.new_zeros(torch.Size(self.shape).numel())
        return zeros.index_put((where,), self.values).reshape(self.shape)


@dataclass(frozen=True)
class LowRankUpdate:
    """A matrix leaf given in a subspace: ``factor @ basis.T`` or ``basis @ factor``.

    Attributes:
        factor: (m, r) for side "right", (r, n) for side "left"; leading batch dimensions allowed.
        basis: (n, r) for side "right", (m, r) for side "left"; or an int64 tensor (r,) of the
            selected columns (side "right") or rows (side "left").
        shape: shape of the dense leaf.
        side: which side of the matrix was projected.
        chosen: int64 (r,), which vectors of a fixed orthonormal basis the floating ``basis`` holds,
            or None.

    >>> import torch, gradtx as gx
    >>> u = gx.LowRankUpdate(torch.ones(2, 1), torch.tensor([[1.0], [0.0], [2.0]]), (2, 3))
    >>> u.to_dense().tolist()
    [[1.0, 0.0, 2.0], [1.0, 0.0, 2.0]]
    """

    factor: Tensor
    basis: Tensor
    shape: tuple[int, ...]
    side: str = "right"
    chosen: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the factor."""
        return self.factor.dtype

    @property
    def device(self) -> torch.device:
        """Device of the factor."""
        return self.factor.device

    def map(self, fn: Callable[[Tensor], Tensor]) -> LowRankUpdate:
        """Apply a linear elementwise function to the factor."""
        return LowRankUpdate(fn(self.factor), self.basis, self.shape, self.side, self.chosen)

    @outside_autocast
    def to_dense(self) -> Tensor:
        """The leaf as an ordinary tensor."""
        if self.basis.is_floating_point():
            if self.side == "right":
                return (self.factor @ self.basis.mT).reshape(self.shape)
            return (self.basis @ self.factor).reshape(self.shape)
        zeros = self.factor.new_zeros(self.shape)
        return zeros.index_add(-1 if self.side == "right" else -2, self.basis, self.factor)


STRUCTURED = (SparseUpdate, LowRankUpdate)
ANY_UPDATE = (Tensor, *STRUCTURED)


def densify_leaf(leaf: Any) -> Any:
    """A structured update as a tensor; anything else unchanged."""
    return leaf.to_dense() if isinstance(leaf, STRUCTURED) else leaf


def add_leaf(x: Tensor, leaf: Any, factor: Any) -> Tensor:
    """``x`` plus ``factor`` times an update; of chosen rows or columns only those are computed."""
    if isinstance(leaf, LowRankUpdate) and not leaf.basis.is_floating_point():
        return x.index_add(-1 if leaf.side == "right" else -2, leaf.basis, factor * leaf.factor)
    return x + factor * densify_leaf(leaf)


def zeros_of(leaf: Any) -> Any:
    """A zero update of the same kind."""
    return leaf.map(torch.zeros_like) if isinstance(leaf, STRUCTURED) else torch.zeros_like(leaf)


def choose_leaf(condition: Tensor, leaf: Any, other: Any) -> Any:
    """``leaf`` where a 0-d boolean tensor holds, else ``other``; two kinds meet as tensors."""
    if isinstance(leaf, STRUCTURED) or isinstance(other, STRUCTURED):
        leaf, other = densify_leaf(leaf), densify_leaf(other)
    return torch.where(condition, leaf, other.to(leaf.dtype))


def leaf_if(condition: Tensor, leaf: Any) -> Any:
    """``leaf`` where a 0-d boolean tensor holds, else a zero update of the same kind."""
    if isinstance(leaf, STRUCTURED):
        return leaf.map(lambda x: leaf_if(condition, x))
    return torch.where(condition, leaf, torch.zeros_like(leaf))


def isfinite_leaf(leaf: Any) -> Tensor:
    """Whether no entry is NaN or infinite, as a 0-d tensor."""
    if isinstance(leaf, SparseUpdate):
        leaf = leaf.values
    x = densify_leaf(leaf)
    if not x.numel() or not x.is_floating_point() or is_recorded() or is_watched(x):
        return torch.isfinite(x).all()
    low, high = torch.aminmax(x.detach())  # NaN where one is, and all in one pass
    return (low > -torch.inf) & (high < torch.inf)
