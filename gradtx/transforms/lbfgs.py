"""L-BFGS: the inverse Hessian as the last differences of parameters and gradients show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Values, static
from ..core.leaves import LeafInfo
from ..core.reduce import Reduce
from ..core.roots import root
from ..core.state import advance, new_count, new_scalar
from ..core.sums import element_sum
from ..core.transform import TreeTransform
from ..core.tree import accumulator_dtype, total


class LbfgsLeaf(NamedTuple):
    """State of a leaf of shape S in ``scale_by_lbfgs``; the newest difference comes first.

    Attributes:
        params: S, the last parameter.
        updates: S, the last gradient.
        param_changes: (memory_size, *S).
        update_changes: (memory_size, *S).
    """

    params: Tensor
    updates: Tensor
    param_changes: Tensor
    update_changes: Tensor


class LbfgsShared(NamedTuple):
    """What leaves share in ``scale_by_lbfgs``.

    Attributes:
        step: int32, updates done.
        weights: (memory_size,), 1 / <s, y> of every pair, 0 where there is none.
        scale: 0-d, <s, y> / <y, y> of the newest pair.
    """

    step: Tensor
    weights: Tensor
    scale: Tensor


@dataclass(frozen=True)
class scale_by_lbfgs(TreeTransform):
    """Multiply by L-BFGS's approximation of the inverse Hessian, all leaves as one vector.

    With the last pairs s = change of parameters, y = change of gradients and r = 1 / <s, y>:
    H <- (I - r s y^T) H (I - r y s^T) + r s s^T, from H_0 = <s, y> / <y, y> I of the newest pair;
    update = H u. Before the first pair H = min(1, 1 / ||u||). A pair with <s, y> <= 0 is left out,
    so H stays positive definite.

    Args:
        memory_size: pairs that are kept, >= 1.
        scale_init_precond: False for H_0 = I throughout.

    Raises:
        ValueError: ``memory_size`` < 1, or no parameters at ``update``.

    Source: Liu and Nocedal, Mathematical Programming 45 (1989).

    >>> import torch, gradtx as gx
    >>> tx, w = gx.scale_by_lbfgs(), torch.tensor([2.0])
    >>> updates, state = tx.update(4 * w, tx.init(w), w)
    >>> w = w - updates
    >>> tx.update(4 * w, state, w)[0] == w  # a quadratic: the Newton step
    tensor([True])
    """

    requires_params: ClassVar[bool] = True

    memory_size: int = static(10, at_least=1)
    scale_init_precond: bool = static(True)

    def init_tree(
        self, ps: list[Tensor], infos: list[LeafInfo]
    ) -> tuple[list[LbfgsLeaf], LbfgsShared]:
        m, leaves = self.memory_size, []
        for p in ps:
            zero = torch.zeros_like(p, dtype=accumulator_dtype(p.dtype), requires_grad=False)
            many = zero.new_zeros((m, *p.shape))
            leaves.append(LbfgsLeaf(zero, zero.clone(), many, many.clone()))
        one = new_scalar(ps, 1.0)
        return leaves, LbfgsShared(new_count(ps), one.new_zeros(m), one)

    def update_tree(
        self,
        us: list[Tensor],
        leaves: list[Any] | None,
        shared: LbfgsShared,
        ps: list[Any],
        h: Values,
        reduce: Reduce,
    ) -> tuple[list[Tensor], list[Any] | None, LbfgsShared]:
        assert leaves is not None
        wide = shared.scale.dtype

        def dot(xs: list[Tensor], ys: list[Tensor]) -> Tensor:
            parts = [element_sum(x * y).to(wide) for x, y in zip(xs, ys, strict=True)]
            return reduce.sum(total(parts))

        s = [p - leaf.params for p, leaf in zip(ps, leaves, strict=True)]
        y = [u - leaf.updates for u, leaf in zip(us, leaves, strict=True)]
        curvature, size = dot(s, y), dot(y, y)
        taken = (shared.step > 0) & (curvature > 0) & (size > 0)
        weight = 1 / torch.where(taken, curvature, 1.0)
        scale = torch.where(taken, curvature / torch.where(taken, size, 1.0), shared.scale)
        weights = torch.where(taken, _pushed(shared.weights, weight), shared.weights)
        new = [
            LbfgsLeaf(
                p.to(leaf.params.dtype, copy=True),  # callers write into parameters
                u.to(leaf.updates.dtype, copy=True),
                torch.where(taken, _pushed(leaf.param_changes, a), leaf.param_changes),
                torch.where(taken, _pushed(leaf.update_changes, b), leaf.update_changes),
            )
            for u, p, leaf, a, b in zip(us, ps, leaves, s, y, strict=True)
        ]
        first = 1.0 / torch.clamp(root(dot(us, us)), min=1.0)
        start = torch.where(weights[0] > 0, scale, first) if self.scale_init_precond else None
        outs, back = list(us), []
        for i in range(self.memory_size):  # from the newest to the oldest
            alpha = weights[i] * dot([leaf.param_changes[i] for leaf in new], outs)
            outs = [
                q - alpha.to(q) * leaf.update_changes[i] for q, leaf in zip(outs, new, strict=True)
            ]
            back.append(alpha)
        if start is not None:
            outs = [q * start.to(q) for q in outs]
        for i in reversed(range(self.memory_size)):
            beta = back[i] - weights[i] * dot([leaf.update_changes[i] for leaf in new], outs)
            outs = [
                q + beta.to(q) * leaf.param_changes[i] for q, leaf in zip(outs, new, strict=True)
            ]
        return outs, new, LbfgsShared(advance(shared.step), weights, scale.to(wide))


def _pushed(old: Tensor, new: Tensor) -> Tensor:
    """A memory with a new first entry, without its last."""
    return torch.cat([new.to(old)[None], old[:-1]])
