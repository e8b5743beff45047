"""Weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.averages import add_multiple
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.protocol import GradientTransformation
from ..core.select import Labels, masked
from ..core.transform import LeafTransform
from ..core.watch import is_watched


@dataclass(frozen=True)
class _AddDecayedWeights(LeafTransform):
    requires_params: ClassVar[bool] = True

    weight_decay: Hyper = dynamic(0.0, within="[0, inf)", per_entry=True)
    cautious: bool = static(False)

    @property
    def name(self) -> str:
        return "add_decayed_weights"

    def update_leaf(self, u: Tensor, s: Any, p: Tensor, h: Values) -> tuple[Tensor, Any]:
        if self.cautious:
            decay = h.weight_decay * p
            return u + torch.where(p * u >= 0, decay, torch.zeros_like(decay)), s
        if not isinstance(h.weight_decay, Tensor) and h.weight_decay == 0 and is_watched(p):
            p = p.detach()  # what is no number stays so; all derivatives are zero
        return add_multiple(u, h.weight_decay, p), s


def add_decayed_weights(
    weight_decay: Hyper = 0.0, mask: Labels | None = None, cautious: bool = False
) -> GradientTransformation:
    """Add a multiple of the parameter to the update: ``u <- u + weight_decay * p``.

    Before the moments this is L2 regularisation, after them decoupled decay (arXiv 1711.05101).

    Args:
        weight_decay: the multiple, >= 0, or a schedule.
        mask: which leaves decay, a predicate on ``LeafInfo`` or a tree of booleans; default all.
        cautious: only entries that the update makes smaller too (p u >= 0), as in arXiv 2411.16085.

    Raises:
        ValueError: a negative multiple, or no parameters given to ``update``.

    >>> import torch, gradtx as gx
    >>> params = {"w": torch.ones(1)}
    >>> gx.add_decayed_weights(0.1).update({"w": torch.zeros(1)}, (), params)[0]
    {'w': tensor([0.1000])}
    """
    decay = _AddDecayedWeights(weight_decay, cautious)
    return decay if mask is None else masked(decay, mask)


@dataclass(frozen=True)
class add_corrected_decay(LeafTransform):
    """Weight decay that follows the learning rate twice: ``u <- u + weight_decay lr/peak_lr p``.

    Before the learning rate. A decay that starts and ends small with the learning rate keeps the
    size of parameters steadier than one that is multiplied with it once.

    Args:
        lr: learning rate >= 0, the same as that after it.
        weight_decay: the multiple at the peak, >= 0.
        peak_lr: the largest learning rate, > 0.
        independent: divide by the peak alone, so that the decay does not depend on its choice.

    Raises:
        ValueError: a value outside its interval, or no parameters given to ``update``.

    Source: arXiv 2506.02285.

    >>> import torch, gradtx as gx
    >>> params = {"w": torch.ones(1)}
    >>> tx = gx.add_corrected_decay(0.5, weight_decay=0.2, peak_lr=1.0)
    >>> tx.update({"w": torch.zeros(1)}, (), params)[0]
    {'w': tensor([0.1000])}
    """

    requires_params: ClassVar[bool] = True

    lr: Hyper = dynamic(within="[0, inf)", per_entry=True)
    weight_decay: Hyper = dynamic(0.0, within="[0, inf)", per_entry=True)
    peak_lr: Hyper = dynamic(1.0, within="(0, inf)")
    independent: bool = static(False)

    def update_leaf(self, u: Tensor, s: Any, p: Tensor, h: Values) -> tuple[Tensor, Any]:
        peak = h.peak_lr
        if isinstance(peak, Tensor):
            peak = torch.where(peak == 0, 1.0, peak)
        rate = 1.0 if self.independent else h.lr
        return u + h.weight_decay * (rate / peak) * p, s
