"""A learning rate that falls when the loss no longer does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo
from ..core.reduce import Reduce
from ..core.state import new_count, new_scalar
from ..core.transform import TreeTransform


class PlateauShared(NamedTuple):
    """State of ``reduce_on_plateau``.

    Attributes:
        scale: 0-d, the factor.
        best: 0-d, the best mean of values.
        plateau: int32, means without improvement.
        cooldown: int32, means that are not to be counted.
        step: int32, values in the present mean.
        mean: 0-d, of those.
    """

    scale: Tensor
    best: Tensor
    plateau: Tensor
    cooldown: Tensor
    step: Tensor
    mean: Tensor


@dataclass(frozen=True)
class reduce_on_plateau(TreeTransform):
    """Multiply by a factor that shrinks when the loss has not improved for a while.

    Args:
        factor: what the scale is multiplied by, in (0, 1).
        patience: means without improvement until then, >= 1.
        rtol: relative improvement that counts, in [0, 1].
        atol: absolute improvement that counts, >= 0; one of both must be positive.
        cooldown: means after a reduction that are not counted, >= 0.
        accumulation_size: values per mean, >= 1.
        min_scale: the least scale, >= 0.

    Raises:
        ValueError: a value outside its range, or no ``value`` at ``update``.

    >>> import torch, gradtx as gx
    >>> tx, grads = gx.reduce_on_plateau(0.5, patience=1), {"w": torch.ones(1)}
    >>> state = tx.init(grads)
    >>> for _ in range(2):
    ...     updates, state = tx.update(grads, state, value=torch.tensor(3.0))
    >>> updates
    {'w': tensor([0.5000])}
    """

    needs_value: ClassVar[bool] = True

    factor: Hyper = dynamic(0.1, within="(0, 1)")
    patience: int = static(10, at_least=1)
    rtol: float = static(1e-4, within="[0, 1]")
    atol: float = static(0.0, within="[0, inf)")
    cooldown: int = static(0, at_least=0)
    accumulation_size: int = static(1, at_least=1)
    min_scale: Hyper = dynamic(0.0, within="[0, inf)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rtol + self.atol > 0:
            raise ValueError("reduce_on_plateau: rtol or atol must be positive")

    def init_tree(self, ps: list[Tensor], infos: list[LeafInfo]) -> tuple[None, PlateauShared]:
        return None, PlateauShared(
            scale=new_scalar(ps, 1.0),
            best=new_scalar(ps, torch.inf),
            plateau=new_count(ps),
            cooldown=new_count(ps),
            step=new_count(ps),
            mean=new_scalar(ps),
        )

    def update_tree(
        self,
        us: list[Tensor],
        leaves: list[Any] | None,
        shared: PlateauShared,
        ps: list[Any],
        h: Values,
        reduce: Reduce,
    ) -> tuple[list[Tensor], list[Any] | None, PlateauShared]:
        old = shared
        step = old.step + 1
        mean = old.mean + (h.value - old.mean) / step
        whole = step == self.accumulation_size
        better = mean < (1 - self.rtol) * old.best - self.atol
        waited = torch.where(better, 0, old.plateau + 1)
        resting = old.cooldown > 0
        now = (waited == self.patience) & ~resting
        scale = torch.where(now, old.scale * h.factor, old.scale)
        scale = torch.where(resting, old.scale, torch.clamp(scale, min=h.min_scale))
        plateau = torch.where(now | resting, 0, waited)
        cooldown = torch.where(resting, old.cooldown - 1, torch.where(now, self.cooldown, 0))
        after = PlateauShared(
            scale, torch.where(better, mean, old.best), plateau, cooldown, step * 0, mean * 0
        )
        between = old._replace(step=step, mean=mean)
        pairs = zip(after, between, old, strict=True)
        new = PlateauShared(*(torch.where(whole, a, b).to(o.dtype) for a, b, o in pairs))
        return [u * new.scale.to(u) for u in us], leaves, new
