"""MoMo: momentum with the step size that a model of the loss gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.averages import average, average_square
from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo
from ..core.reduce import Reduce
from ..core.roots import root
from ..core.state import advance, new_count, new_scalar, state_zeros
from ..core.sums import element_sum
from ..core.transform import TreeTransform
from ..core.tree import total


class MomoLeaf(NamedTuple):
    """Attributes: ``mu``, average of updates; ``nu``, of their squares, () in ``scale_by_momo``."""

    mu: Tensor
    nu: Tensor | tuple[()] = ()


class MomoShared(NamedTuple):
    """What leaves share in ``scale_by_momo`` and ``scale_by_momo_adam``.

    Attributes:
        step: int32, updates done.
        value: 0-d, average of losses.
        dot: 0-d, average of inner products of updates with parameters.
        lower_bound: 0-d, the lower bound of the loss in use.
    """

    step: Tensor
    value: Tensor
    dot: Tensor
    lower_bound: Tensor


@dataclass(frozen=True)
class _Momo(TreeTransform):
    """What both have in common; ``value`` is the loss."""

    requires_params: ClassVar[bool] = True
    needs_value: ClassVar[bool] = True

    def _step_size(
        self,
        mus: list[Tensor],
        precs: list[Tensor] | None,
        us: list[Tensor],
        ps: list[Any],
        shared: MomoShared,
        h: Values,
        reduce: Reduce,
        decay: Any,
        bias: Tensor,
    ) -> tuple[list[Tensor], MomoShared]:
        """The updates and the next shared state.

        Args:
            mus: first moments.
            precs: what divides them, or None.
            us: updates.
            ps: parameters.
            shared: the present shared state.
            h: hyperparameters.
            reduce: sums over shards.
            decay: of the averages.
            bias: 0-d, ``1 - decay^t`` where the averages have a bias, else 1.
        """

        def dot(xs: list[Tensor], ys: list[Tensor]) -> Tensor:
            products = [element_sum(x * y) for x, y in zip(xs, ys, strict=True)]
            return reduce.sum(total(products)).to(shared.value.dtype)

        scaled = mus if precs is None else [m / d for m, d in zip(mus, precs, strict=True)]
        value = decay * shared.value + (1 - decay) * h.value
        along = decay * shared.dot + (1 - decay) * dot(us, ps)
        size, inner = dot(mus, scaled), dot(mus, ps)
        shrink = 1 + h.lr * h.weight_decay
        bound = h.lower_bound
        if self.adapt_lower_bound:  # type: ignore[attr-defined]
            bound = torch.where(shared.step == 0, bound, shared.lower_bound)
            cap = shrink * (value - along) + inner
            lower = torch.clamp(cap / (2 * bias * shrink), min=h.lower_bound)
            bound = torch.where(cap < shrink * bias * bound, lower, bound)
        gap = torch.clamp(shrink * (value - bias * bound - along) + inner, min=0)
        flat = size <= torch.finfo(torch.float64).eps
        wanted = torch.where(flat, 0.0, gap / torch.where(flat, 1.0, size))
        tau = torch.minimum((h.lr / bias).to(wanted), wanted)
        if self.adapt_lower_bound:  # type: ignore[attr-defined]
            reached = (value + inner - along - tau * size / 2) / bias
            bound = torch.clamp(reached, min=h.lower_bound)
        rate = h.lr * h.weight_decay / shrink
        outs = [
            -(rate.to(p) if isinstance(rate, Tensor) else rate) * p - tau.to(p) * m
            for p, m in zip(ps, scaled, strict=True)
        ]
        one = torch.ones_like(shared.value)
        kept = [(x * one).to(one.dtype) for x in (value, along, bound)]
        return outs, MomoShared(advance(shared.step), *kept)

    def _shared(self, ps: list[Tensor]) -> MomoShared:
        return MomoShared(new_count(ps), *(new_scalar(ps) for _ in range(3)))


@dataclass(frozen=True)
class scale_by_momo(_Momo):
    """Momentum with a Polyak step size, at most ``lr``, from averages of losses.

    m, f, c: averages (decay beta, the first values alone at the start) of u, of the loss and of
    <u, p>. tau = min(lr, max(f - f* - c + <m, p>, 0) / ||m||^2);  update = -tau m, with weight
    decay as in the paper. The updates are complete steps.

    Args:
        lr: largest step size >= 0, or a schedule.
        beta: decay of the averages, in [0, 1).
        lower_bound: f*, a lower bound of the loss.
        weight_decay: strength of the decay, >= 0.
        adapt_lower_bound: raise f* towards what the model of the loss shows.

    Raises:
        ValueError: a value outside its interval, or no ``value`` at ``update``.

    Source: arXiv 2305.07583.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.scale_by_momo(), {"w": torch.full((1,), 2.0)}
    >>> grads = {"w": torch.full((1,), 4.0)}
    >>> tx.update(grads, tx.init(params), params, value=torch.tensor(4.0))[0]
    {'w': tensor([-1.])}
    """

    lr: Hyper = dynamic(1.0, within="[0, inf)")
    beta: Hyper = dynamic(0.9, within="[0, 1)")
    lower_bound: Hyper = dynamic(0.0)
    weight_decay: Hyper = dynamic(0.0, within="[0, inf)")
    adapt_lower_bound: bool = static(False)

    def init_tree(
        self, ps: list[Tensor], infos: list[LeafInfo]
    ) -> tuple[list[MomoLeaf], MomoShared]:
        return [MomoLeaf(state_zeros(p)) for p in ps], self._shared(ps)

    def update_tree(
        self,
        us: list[Tensor],
        leaves: list[Any] | None,
        shared: MomoShared,
        ps: list[Any],
        h: Values,
        reduce: Reduce,
    ) -> tuple[list[Tensor], list[Any] | None, MomoShared]:
        assert leaves is not None
        one = torch.ones_like(shared.value)
        decay = h.beta * (shared.step > 0).to(one.dtype)  # the first values stand alone
        mus = [average(s.mu, u, decay.to(u)) for u, s in zip(us, leaves, strict=True)]
        outs, new = self._step_size(mus, None, us, ps, shared, h, reduce, decay, one)
        return outs, [MomoLeaf(m) for m in mus], new


@dataclass(frozen=True)
class scale_by_momo_adam(_Momo):
    """Adam with a Polyak step size, at most ``lr``, from averages of losses.

    As ``scale_by_momo`` with m / D for m, D = eps + sqrt(v'), and averages that start at zero.

    Args:
        lr: largest step size >= 0, or a schedule.
        b1: decay of the first moment and of the averages, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root, > 0.
        lower_bound: a lower bound of the loss.
        weight_decay: strength of the decay, >= 0.
        adapt_lower_bound: raise the bound towards what the model of the loss shows.

    Raises:
        ValueError: a value outside its interval, or no ``value`` at ``update``.

    Source: arXiv 2305.07583.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.scale_by_momo_adam(1e-2), {"w": torch.full((1,), 2.0)}
    >>> grads = {"w": torch.full((1,), 4.0)}
    >>> tx.update(grads, tx.init(params), params, value=torch.tensor(4.0))[0]
    {'w': tensor([-0.0100])}
    """

    lr: Hyper = dynamic(1e-2, within="[0, inf)")
    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1)")
    eps: Hyper = dynamic(1e-8, within="(0, inf)")
    lower_bound: Hyper = dynamic(0.0)
    weight_decay: Hyper = dynamic(0.0, within="[0, inf)")
    adapt_lower_bound: bool = static(False)

    def init_tree(
        self, ps: list[Tensor], infos: list[LeafInfo]
    ) -> tuple[list[MomoLeaf], MomoShared]:
        leaves = [MomoLeaf(state_zeros(p), state_zeros(p)) for p in ps]
        return leaves, self._shared(ps)

    def update_tree(
        self,
        us: list[Tensor],
        leaves: list[Any] | None,
        shared: MomoShared,
        ps: list[Any],
        h: Values,
        reduce: Reduce,
    ) -> tuple[list[Tensor], list[Any] | None, MomoShared]:
        assert leaves is not None
        step = advance(shared.step)
        mus = [average(s.mu, u, h.b1).to(u) for u, s in zip(us, leaves, strict=True)]
        nus = [average_square(s.nu, u, h.b2).to(u) for u, s in zip(us, leaves, strict=True)]
        precs = [h.eps + root(v / one_minus_power(h.b2, step, v.dtype)) for v in nus]
        precs = [torch.where(d == 0, 1.0, d) for d in precs]
        bias = one_minus_power(h.b1, step, shared.value.dtype)
        outs, new = self._step_size(mus, precs, us, ps, shared, h, reduce, h.b1, bias)
        return outs, [MomoLeaf(m, v) for m, v in zip(mus, nus, strict=True)], new
