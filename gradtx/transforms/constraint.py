"""Keep parameters or updates inside a set: non-negative parameters, no NaN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Values
from ..core.leaves import LeafInfo
from ..core.transform import LeafTransform


@dataclass(frozen=True)
class keep_params_nonnegative(LeafTransform):
    """Change updates so that parameters do not become negative: ``u <- max(u, -p)``.

    Put it last in a chain, after the learning rate. A parameter that is negative moves to zero.

    Raises:
        ValueError: no parameters given to ``update``.

    >>> import torch, gradtx as gx
    >>> params = {"w": torch.tensor([1.0, 1.0])}
    >>> gx.keep_params_nonnegative().update({"w": torch.tensor([-3.0, -0.5])}, (), params)[0]
    {'w': tensor([-1.0000, -0.5000])}
    """

    requires_params: ClassVar[bool] = True

    def update_leaf(self, u: Tensor, s: Any, p: Tensor, h: Values) -> tuple[Tensor, Any]:
        return torch.where(p + u < 0, -p.to(u.dtype), u), s


class ZeroNansState(NamedTuple):
    """Attributes: ``found_nan``, bool, whether the last update of this leaf had a NaN."""

    found_nan: Tensor


@dataclass(frozen=True)
class zero_nans(LeafTransform):
    """Replace NaN entries of updates by zero, and note in the state which leaves had any.

    Without it an entry whose gradient is NaN gets a NaN for its update, in every transform, and
    what has seen one, a moment or a number that leaves share, stays NaN. ``gx.apply_if_finite``
    and ``gx.apply_if_leaf_finite`` skip steps or leaves instead. Infinity follows arithmetic: its
    sign is 1, its quotient by a moment that has seen it NaN, later ones zero.

    >>> import torch, gradtx as gx
    >>> tx = gx.zero_nans()
    >>> updates, state = tx.update({"w": torch.tensor([torch.nan, 1.0])}, tx.init({
    ...     "w": torch.zeros(2)}))
    >>> updates["w"].tolist(), state["w"].found_nan.item()
    ([0.0, 1.0], True)
    """

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ZeroNansState:
        return ZeroNansState(torch.zeros((), dtype=torch.bool, device=p.device))

    def update_leaf(
        self, u: Tensor, s: ZeroNansState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ZeroNansState]:
        nan = torch.isnan(u)
        return torch.where(nan, torch.zeros_like(u), u), ZeroNansState(nan.any())
