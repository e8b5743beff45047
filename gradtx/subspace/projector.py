"""What a subspace is: the projector protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.autocast import define_outside_autocast, outside_autocast
from ..core.declared import short_repr
from ..core.leaves import LowRankUpdate
from ..core.plain import Plain


class Rotation(NamedTuple):
    """Old coordinates in terms of new ones.

    Attributes:
        left: (rank, rank) that multiplies factors from the left, or () .
        right: (rank, rank) that multiplies them from the right, transposed, or ().
    """

    left: Tensor | tuple[()]
    right: Tensor | tuple[()]

    def first(self, m: Tensor) -> Tensor:
        """A first moment in the new coordinates: ``R m``."""
        return _turned(m, self.left, self.right)

    def second(self, v: Tensor) -> Tensor:
        """A second moment in the new coordinates: ``(R * R) v``, which is not negative."""
        return torch.clamp(self.squared(v), min=0)

    def squared(self, v: Tensor) -> Tensor:
        """``(R * R) v``."""
        left, right = (r * r if isinstance(r, Tensor) else r for r in self)
        return _turned(v, left, right)


@outside_autocast
def _turned(x: Tensor, left: Any, right: Any) -> Tensor:
    x = left @ x if isinstance(left, Tensor) else x  # (rank, rank) (rank, columns)
    return x @ right.mT if isinstance(right, Tensor) else x


# What multiplies matrices.
_METHODS = (
    "init",
    "refresh",
    "refresh_all",
    "project",
    "back",
    "add_back",
    "complement",
    "rotation",
)


@dataclass(frozen=True, repr=False)
class Projector(Plain):
    """Base class of subspaces of a matrix's columns, rows or both.

    A projector is a value and holds no tensors: its state does, a NamedTuple per leaf. Coordinates
    lie as the parameter does: (rank, columns) on the left side, (rows, rank) on the right. What
    goes back is Q Q^T of what came, without a pseudo-inverse.

    Attributes:
        orthonormal: whether Q^T Q is the identity.

    >>> import torch, gradtx as gx
    >>> projector, g = gx.subspace.svd(1), torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    >>> state = projector.refresh(projector.init(g), g, first=True)
    >>> z = projector.project(state, g)
    >>> z.shape, bool((projector.back(state, z, g.shape) - g).abs().max() < 1e-6)
    (torch.Size([3, 1]), True)
    """

    orthonormal: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        define_outside_autocast(cls, *_METHODS)

    @property
    def name(self) -> str:
        """The name used in errors."""
        return type(self).__name__

    def __repr__(self) -> str:
        return short_repr(self.name, self)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether a leaf of this shape is a matrix for it; others are left as they are."""
        raise NotImplementedError

    def factor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the projection of a leaf."""
        raise NotImplementedError

    def init(self, p: Tensor, name: str = "") -> Any:
        """The state before the first refresh: a NamedTuple of tensors.

        Args:
            p: the parameter, or any tensor of its shape and dtype.
            name: the leaf's name, for errors and for random numbers of its own.
        """
        raise NotImplementedError

    def refresh(self, state: Any, g: Tensor, first: Tensor | bool = False) -> Any:
        """The state with a new subspace for a gradient, which is constant for differentiation.

        Where a gradient is not finite the subspace stays, except at the first refresh.

        Args:
            state: the old one.
            g: shaped like the leaf.
            first: whether there has been no refresh before.
        """
        raise NotImplementedError

    def refresh_all(
        self, states: list[Any], gs: list[Tensor], firsts: list[Tensor | bool]
    ) -> list[Any]:
        """``refresh`` of several leaves, those of one shape together where that is faster."""
        return [self.refresh(*each) for each in zip(states, gs, firsts, strict=True)]

    def project(self, state: Any, g: Tensor) -> Tensor:
        """Coordinates of a leaf."""
        raise NotImplementedError

    def back(self, state: Any, z: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The leaf with these coordinates."""
        raise NotImplementedError

    def add_back(self, state: Any, g: Tensor, z: Tensor) -> Tensor:
        """A leaf plus the one with these coordinates: ``g + back(z)``."""
        return g + self.back(state, z, tuple(g.shape))

    def complement(self, state: Any, g: Tensor, z: Tensor | None = None) -> Tensor:
        """What the projection leaves out: ``g - back(z)``."""
        z = self.project(state, g) if z is None else z
        return g - self.back(state, z, tuple(g.shape))

    def rotation(self, old: Any, new: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Rotation:
        """``R = Q_new^T Q_old``, which carries coordinates over."""
        raise NotImplementedError

    def low_rank_update(self, state: Any, z: Tensor, shape: tuple[int, ...]) -> LowRankUpdate:
        """Coordinates and basis as an update that other transforms understand.

        Raises:
            TypeError: there are two bases.
        """
        raise TypeError(f"{self.name}: has two bases; use gx.in_subspace")


def canonical(q: Tensor) -> Tensor:
    """Basis vectors with their largest entry (the first of equals) positive.

    >>> import torch
    >>> from gradtx.subspace.projector import canonical
    >>> canonical(torch.tensor([[0.5, 0.1], [-0.8, 0.9]])).tolist()
    [[-0.5, 0.10000000149011612], [0.800000011920929, 0.8999999761581421]]
    """
    largest = q.gather(-2, q.abs().argmax(dim=-2, keepdim=True))
    return torch.where(largest < 0, -q, q)


def keep_if_bad(new: Tensor, old: Tensor, x: Tensor, first: Tensor | bool) -> Tensor:
    """The new basis, or the old one if ``x`` is not finite and there is one."""
    keep = ~torch.isfinite(x).all()
    if isinstance(first, Tensor):
        keep = keep & ~first
    out = new if first is True else torch.where(keep, old.to(new.dtype), new)
    return one_form(out)


def one_form(x: Tensor) -> Tensor:
    """The tensor with the strides that states have; of one column any would count as contiguous."""
    return x.reshape(-1).reshape(x.shape)


def finite_or_zero(x: Tensor) -> Tensor:
    """Zeros where anything is not finite: decompositions refuse such input."""
    return torch.where(torch.isfinite(x).all(), x, torch.zeros_like(x))
