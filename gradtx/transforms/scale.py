"""Constant factors, zero among them, and the end of structured updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..core.execution import Execution
from ..core.functions import identity
from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import STRUCTURED, densify_leaf, zeros_of
from ..core.transform import LeafTransform


@dataclass(frozen=True)
class scale(LeafTransform):
    """Multiply updates by a factor: ``u <- step_size * u``.

    Args:
        step_size: the factor; a tensor may hold one for every entry of a leaf.

    >>> import torch, gradtx as gx
    >>> gx.scale(-0.5).update({"w": torch.ones(2)}, ())[0]
    {'w': tensor([-0.5000, -0.5000])}
    """

    accepts: ClassVar[tuple[type, ...]] = (Tensor, *STRUCTURED)

    step_size: Hyper = dynamic(per_entry=True)

    def update_leaf(self, u: Any, s: Any, p: Any, h: Values) -> tuple[Any, Any]:
        return scale_leaf(u, h.step_size), s


def scale_leaf(u: Any, factor: Any) -> Any:
    """Multiply a tensor or a structured update by a number or a 0-d tensor."""
    if isinstance(u, STRUCTURED):
        return u.map(lambda x: scale_leaf(x, factor))
    return u * factor


@dataclass(frozen=True)
class set_to_zero(LeafTransform):
    """Replace updates by zeros, whatever they were: NaN and infinity too.

    For leaves of a ``gx.partition`` that are not trained; ``gx.freeze`` takes a mask.

    >>> import torch, gradtx as gx
    >>> gx.set_to_zero().update({"w": torch.tensor([1.0, torch.nan])}, ())[0]
    {'w': tensor([0., 0.])}
    """

    accepts: ClassVar[tuple[type, ...]] = (Tensor, *STRUCTURED)

    def update_leaf(self, u: Any, s: Any, p: Any, h: Values) -> tuple[Any, Any]:
        return zeros_of(u), s


@dataclass(frozen=True)
class densify(LeafTransform):
    """Turn sparse and low-rank updates into ordinary tensors.

    >>> import torch, gradtx as gx
    >>> u = gx.SparseUpdate(torch.tensor([1]), torch.tensor([3.0]), (2,))
    >>> gx.densify().update({"w": u}, ())[0]
    {'w': tensor([0., 3.])}
    """

    # Executors multiply low-rank updates out themselves.
    execution: ClassVar[Execution] = Execution(
        cannot_raise=True, low_rank_form=lambda tx: identity()
    )
    accepts: ClassVar[tuple[type, ...]] = (Tensor, *STRUCTURED)

    def update_leaf(self, u: Any, s: Any, p: Any, h: Values) -> tuple[Any, Any]:
        return densify_leaf(u), s
