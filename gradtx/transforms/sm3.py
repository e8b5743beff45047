"""SM3: second moments shared along the dimensions of a leaf."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.averages import average, newest_weight
from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import LeafInfo
from ..core.roles import FirstMoment
from ..core.state import state_zeros
from ..core.transform import LeafTransform
from ..core.tree import accumulator_dtype


class ScaleBySm3State(NamedTuple):
    """State of ``scale_by_sm3``.

    Attributes:
        cover: second moments, for every dimension a vector with one value per index; of a parameter
            of less than two dimensions shaped like it.
        mu: average of scaled updates, shaped like the parameter.
    """

    cover: tuple[Tensor, ...]
    mu: FirstMoment


@dataclass(frozen=True)
class scale_by_sm3(LeafTransform):
    """Divide updates by the smallest bound that the slices through each entry give.

    a = b2 min_i(cover_i) + (1 - b2) u^2 (factor 1 instead of 1 - b2 if b2 = 1);
    cover_i <- max of a over the slice; the update is the average, with decay b1, of
    u / sqrt(a + eps), zero where a is zero.

    Args:
        b1: decay of the average, in [0, 1).
        b2: decay of the second moments, in [0, 1].
        eps: added inside the root.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1901.11150.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.scale_by_sm3(b1=0.0), {"w": torch.zeros(2, 2)}
    >>> updates, state = tx.update({"w": torch.tensor([[1.0, 2.0], [0.0, 3.0]])}, tx.init(params))
    >>> state["w"].cover
    (tensor([4., 9.]), tensor([1., 9.]))
    """

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(1.0, within="[0, 1]")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleBySm3State:
        if p.ndim < 2:
            return ScaleBySm3State((state_zeros(p),), state_zeros(p))
        cover = [p.new_zeros(n, dtype=accumulator_dtype(p.dtype)) for n in p.shape]
        return ScaleBySm3State(tuple(cover), state_zeros(p))

    def update_leaf(
        self, u: Tensor, s: ScaleBySm3State, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleBySm3State]:
        if u.numel() == 0:
            return u, s
        b2 = h.b2
        a = b2 * _bound([x.to(u.dtype) for x in s.cover], u) + newest_weight(b2) * (u * u)
        unseen = a == 0
        root = torch.sqrt(torch.where(unseen, torch.ones_like(a), a) + h.eps)
        scaled = torch.where(unseen, torch.zeros_like(u), u / root)
        mu = average(s.mu, scaled, h.b1)
        cover = tuple(new.to(old.dtype) for new, old in zip(_cover(a), s.cover, strict=True))
        return mu, ScaleBySm3State(cover, mu.to(s.mu.dtype))


def _bound(cover: Sequence[Tensor], u: Tensor) -> Tensor:
    """The smallest value of ``cover`` among the slices through each entry."""
    if u.ndim < 2:
        return cover[0]
    shapes = [[-1 if i == d else 1 for i in range(u.ndim)] for d in range(u.ndim)]
    return functools.reduce(
        torch.minimum, (x.reshape(shape) for x, shape in zip(cover, shapes, strict=True))
    )


def _cover(a: Tensor) -> list[Tensor]:
    """The largest entry of every slice."""
    if a.ndim < 2:
        return [a]
    dims = range(a.ndim)
    return [a.amax(dim=[i for i in dims if i != d]) for d in dims]
