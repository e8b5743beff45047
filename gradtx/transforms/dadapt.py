"""D-Adaptation: Adam that estimates its learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.averages import average, average_square
from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo
from ..core.reduce import Reduce
from ..core.roots import divide_by_root, root
from ..core.state import advance, new_count, new_scalar, state_zeros
from ..core.sums import element_sum
from ..core.transform import TreeTransform
from ..core.tree import total


class DadaptLeaf(NamedTuple):
    """Attributes: ``mu``, ``nu``, the moments; ``total``, weighted average of updates."""

    mu: Tensor
    nu: Tensor
    total: Tensor


class DadaptShared(NamedTuple):
    """What leaves share in ``scale_by_dadapt_adam``.

    Attributes:
        step: int32, updates done.
        estimate: 0-d, the learning rate found so far.
        numerator: 0-d, weighted average of inner products.
    """

    step: Tensor
    estimate: Tensor
    numerator: Tensor


@dataclass(frozen=True)
class scale_by_dadapt_adam(TreeTransform):
    """Adam whose learning rate is a growing estimate of the distance to the solution.

    With d the estimate, s = sqrt(b2) and a = d lr sqrt(1 - b2^t) / (1 - b1^t):
    k <- s k + (1 - s) a <u, S / (sqrt(v) + eps)>;  S <- s S + (1 - s) a u;
    m <- b1 m + (1 - b1) a u;  v <- b2 v + (1 - b2) u^2;  d <- max(d, k / ((1 - s) ||S||_1));
    update = -m / (sqrt(v) + eps) - weight_decay a p. The updates are complete steps.

    Args:
        lr: factor of the estimate >= 0, or a schedule.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in (0, 1).
        eps: added to the root.
        d0: estimate at the start, > 0.
        weight_decay: multiple of the parameter, >= 0.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2301.07733.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.scale_by_dadapt_adam(d0=0.5), {"w": torch.zeros(1)}
    >>> tx.update({"w": torch.full((1,), 4.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """

    requires_params: ClassVar[bool] = True

    lr: Hyper = dynamic(1.0, within="[0, inf)")
    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="(0, 1)")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")
    d0: float = static(1e-6, within="(0, inf)")
    weight_decay: Hyper = dynamic(0.0, within="[0, inf)")

    def init_tree(
        self, ps: list[Tensor], infos: list[LeafInfo]
    ) -> tuple[list[DadaptLeaf], DadaptShared]:
        leaves = [DadaptLeaf(state_zeros(p), state_zeros(p), state_zeros(p)) for p in ps]
        return leaves, DadaptShared(new_count(ps), new_scalar(ps, self.d0), new_scalar(ps))

    def update_tree(
        self,
        us: list[Tensor],
        leaves: list[Any] | None,
        shared: DadaptShared,
        ps: list[Any],
        h: Values,
        reduce: Reduce,
    ) -> tuple[list[Tensor], list[Any] | None, DadaptShared]:
        assert leaves is not None
        step, wide = advance(shared.step), shared.estimate.dtype
        decay = h.b2.to(wide).sqrt() if isinstance(h.b2, Tensor) else h.b2**0.5
        bias = root(one_minus_power(h.b2, step, wide)) / one_minus_power(h.b1, step, wide)
        rate = shared.estimate * h.lr * bias
        outs, new = [], []
        dots, sizes = [torch.zeros_like(rate)], [torch.zeros_like(rate)]
        for u, s, p in zip(us, leaves, ps, strict=True):
            a, d = rate.to(u), decay.to(u) if isinstance(decay, Tensor) else decay
            dots.append(element_sum(u * divide_by_root(s.total, s.nu, h.eps)).to(wide))
            mu = average(s.mu, a * u, h.b1).to(u)
            nu = average_square(s.nu, u, h.b2).to(u)
            gathered = average(s.total, a * u, d)
            sizes.append(element_sum(gathered.abs()).to(wide))
            outs.append(-h.weight_decay * a * p - divide_by_root(mu, nu, h.eps))
            new.append(DadaptLeaf(mu, nu, gathered))
        dot, size = reduce.sum(total(dots)), reduce.sum(total(sizes))
        numerator = decay * shared.numerator + (1 - decay) * rate * dot
        nothing = size == 0
        found = numerator / ((1 - decay) * torch.where(nothing, 1.0, size))
        estimate = torch.maximum(shared.estimate, torch.where(nothing, 0.0, found))
        return outs, new, DadaptShared(step, estimate.to(wide), numerator.to(wide))
