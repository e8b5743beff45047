"""The size of orthogonal updates: factors from the shape of a matrix, norms of rows and columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.errors import TreeMismatchError
from ..core.execution import Execution
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo, LowRankUpdate
from ..core.roots import divide_by_root, divide_by_sum, vector_norm
from ..core.sums import mean_over
from ..core.transform import LeafTransform
from ..core.tree import accumulator_dtype

# Rows and columns of a matrix -> the factor. Several published names mean the same.
RULES: dict[str, Callable[[int, int], float]] = {
    "original": lambda r, c: math.sqrt(max(1.0, r / c)),
    "match_rms_adamw": lambda r, c: 0.2 * math.sqrt(max(r, c)),
    "spectral_norm": lambda r, c: math.sqrt(r / c),
    "none": lambda r, c: 1.0,
}


@dataclass(frozen=True)
class scale_by_shape(LeafTransform):
    """Multiply matrices by a factor that depends on their rows R and columns C.

    "original" is sqrt(max(1, R / C)), "match_rms_adamw" 0.2 sqrt(max(R, C)), "spectral_norm"
    sqrt(R / C), "none" is 1. The last two dimensions count; vectors stay as they are.

    Args:
        rule: one of these names.

    Raises:
        ValueError: an unknown rule.

    Source: arXiv 2502.16982, arXiv 2504.05295.

    >>> import torch, gradtx as gx
    >>> gx.scale_by_shape("spectral_norm").update({"w": torch.ones(4, 1)}, ())[0]["w"].T
    tensor([[2., 2., 2., 2.]])
    """

    accepts: ClassVar[tuple[type, ...]] = (Tensor, LowRankUpdate)
    execution: ClassVar[Execution] = Execution(cannot_raise=True)

    rule: str = static("original", choices=tuple(RULES))

    def update_leaf(self, u: Any, s: Any, p: Any, h: Values) -> tuple[Any, Any]:
        if len(u.shape) < 2 or 0 in u.shape or self.rule == "none":
            return u, s
        factor = RULES[self.rule](*u.shape[-2:])
        if factor == 1.0:
            return u, s
        return (u.map(lambda x: x * factor) if isinstance(u, LowRankUpdate) else u * factor), s


class NormalizeNeuronsState(NamedTuple):
    """Attributes: ``variance``, (..., rows, 1), average of the rows' mean squares."""

    variance: Tensor


@dataclass(frozen=True)
class normalize_neurons(LeafTransform):
    """Divide rows by the root of the average of their mean squares; the norm stays what it was.

    v <- b2 v + (1 - b2) mean_j u_ij^2;  u' = u / (sqrt(v) + eps);  update = u' |u| / |u'|.
    Of a low-rank update made of chosen rows only their v take part.

    Args:
        b2: decay of the average, in [0, 1).
        eps: added to the root, >= 0.

    Raises:
        ValueError: a value outside its interval, or a leaf with fewer than two dimensions.

    Source: arXiv 2510.05491.

    >>> import torch, gradtx as gx
    >>> tx = gx.normalize_neurons()
    >>> u = {"w": torch.tensor([[3.0, 3.0], [1.0, 1.0]])}
    >>> tx.update(u, tx.init(u))[0]["w"].mean(1)
    tensor([2.2361, 2.2361])
    """

    accepts: ClassVar[tuple[type, ...]] = (Tensor, LowRankUpdate)

    b2: Hyper = dynamic(0.95, within="[0, 1)")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> NormalizeNeuronsState:
        if p.ndim < 2:
            raise ValueError(
                f"normalize_neurons: leaf {info.name!r} of shape {tuple(p.shape)} has no rows"
            )
        shape = (*p.shape[:-1], 1)
        return NormalizeNeuronsState(p.new_zeros(shape, dtype=accumulator_dtype(p.dtype)))

    def update_leaf(
        self, u: Any, s: NormalizeNeuronsState, p: Any, h: Values
    ) -> tuple[Any, NormalizeNeuronsState]:
        x, chosen = u, None
        if isinstance(u, LowRankUpdate):
            x, chosen = u.factor, u.basis
            if u.side != "left" or chosen.is_floating_point():
                raise ValueError("normalize_neurons: takes low-rank updates of chosen rows only")
        if s.variance.shape != (*u.shape[:-1], 1):
            raise TreeMismatchError(
                f"normalize_neurons: an update of shape {tuple(u.shape)} does not fit the state's "
                f"{tuple(s.variance.shape)}"
            )
        if not x.numel():
            return u, s
        all_rows = s.variance.to(x.dtype)
        old = all_rows if chosen is None else all_rows[chosen]
        variance = old + (1 - h.b2) * (mean_over(x.square(), -1) - old)
        out = divide_by_root(x, variance, h.eps)
        before, after = (vector_norm(m, dim=(-2, -1), keepdim=True) for m in (x, out))
        out = out * (before / torch.clamp(after, min=1e-8))
        if chosen is None:
            return out, NormalizeNeuronsState(variance)
        variance = all_rows.index_put((chosen,), variance)
        return LowRankUpdate(out, chosen, u.shape, "left"), NormalizeNeuronsState(variance)


@dataclass(frozen=True)
class normalize_factor(LeafTransform):
    """Give the components of a low-rank update length one: ``P W^T`` becomes ``P W'^T``.

    The columns of W' are those of W divided by their lengths + eps.

    Args:
        eps: added to the lengths, >= 0.

    Raises:
        ValueError: a value outside its interval, or an update that is not of low rank.

    Source: arXiv 2504.05295.

    >>> import torch, gradtx as gx
    >>> tx = gx.chain(gx.compress(gx.compressors.low_rank(1)), gx.normalize_factor(), gx.densify())
    >>> u = {"w": torch.tensor([[3.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 0.0]])}
    >>> tx.update(u, tx.init(u))[0]["w"][:, 0]
    tensor([0.6000, 0.8000, 0.0000])
    """

    accepts: ClassVar[tuple[type, ...]] = (Tensor, LowRankUpdate)

    eps: Hyper = dynamic(1e-8, within="[0, inf)")

    def update_leaf(self, u: Any, s: Any, p: Any, h: Values) -> tuple[Any, Any]:
        if not isinstance(u, LowRankUpdate):
            raise ValueError("normalize_factor: takes low-rank updates only, got a dense one")
        dim = -2 if u.side == "right" else -1
        length = vector_norm(u.factor, dim=dim, keepdim=True)
        return u.map(lambda x: divide_by_sum(x, length, h.eps)), s
