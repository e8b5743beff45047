"""Steps on the sphere of a parameter's own norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic, static
from ..core.roots import floored_root
from ..core.sums import element_sum
from ..core.transform import LeafTransform


@dataclass(frozen=True)
class keep_norm(LeafTransform):
    """Step against the update by an angle and keep the parameter's norm.

    With r = |p|: q = p - lr r u / max(|u|, eps), p <- q r / max(|q|, eps). It stands last in a
    chain, in place of the learning rate, which is the angle of the step.

    Args:
        lr: learning rate >= 0, or a schedule.
        eps: least norm that is divided by, > 0.

    Raises:
        ValueError: a value outside its range, or no parameters given to ``update``.

    >>> import torch, gradtx as gx
    >>> params = {"w": torch.tensor([3.0, 4.0])}
    >>> updates, _ = gx.keep_norm(0.1).update({"w": torch.tensor([1.0, 0.0])}, (), params)
    >>> torch.linalg.vector_norm(params["w"] + updates["w"])
    tensor(5.)
    """

    requires_params: ClassVar[bool] = True

    lr: Hyper = dynamic(within="[0, inf)")
    eps: float = static(1e-10, within="(0, inf)")

    def update_leaf(self, u: Tensor, s: Any, p: Tensor, h: Values) -> tuple[Tensor, Any]:
        p = p.to(u.dtype)
        square = element_sum(p.square())
        r = floored_root(square, torch.finfo(u.dtype).tiny).to(u.dtype)
        r = torch.where(square > 0, r, torch.zeros_like(r))
        q = p - h.lr * r * u / floored_root(element_sum(u.square()), self.eps).to(u.dtype)
        size = floored_root(element_sum(q.square()), self.eps).to(u.dtype)
        return q * (r / size) - p, s
