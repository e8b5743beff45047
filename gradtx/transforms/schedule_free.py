"""Schedule-free averaging around the direction of any optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core import tree
from ..core.chain import Chain, chain
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo
from ..core.protocol import GradientTransformation
from ..core.roots import divide
from ..core.state import advance, new_count
from ..core.transform import LeafTransform
from ..core.tree import PyTree


class ScheduleFreeState(NamedTuple):
    """State of ``schedule_free``.

    Attributes:
        step: int32, updates done for this leaf.
        z: the iterate that takes the plain steps, shaped like the parameter.
        lr_max: the largest learning rate so far.
        averaged: sum of the weights of all iterates, in units of the newest one's weight.
        b1: how far the parameter stands from z towards the average.
    """

    step: Tensor
    z: Tensor
    lr_max: Tensor
    averaged: Tensor
    b1: Tensor


@dataclass(frozen=True)
class _ScheduleFree(LeafTransform):
    requires_params: ClassVar[bool] = True
    densifies: ClassVar[bool] = True

    lr: Hyper = dynamic(within="[0, inf)")
    b1: Hyper = dynamic(0.9, within="(0, 1]")
    warmup_steps: int = static(0, at_least=0)
    r: float = static(0.0, within="[0, inf)")
    weight_lr_power: float = static(2.0, within="[0, inf)")

    @property
    def name(self) -> str:
        return "schedule_free"

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScheduleFreeState:
        z = tree.accumulator(p).clone()
        zero = torch.zeros((), dtype=z.dtype, device=z.device)
        return ScheduleFreeState(new_count([p]), z, zero, zero.clone(), torch.ones_like(zero))

    def update_leaf(
        self, u: Tensor, s: ScheduleFreeState, p: Tensor, h: Values
    ) -> tuple[Tensor, ScheduleFreeState]:
        step = advance(s.step)
        # As tensors, so that a number and a tensor of the same value give the same bits.
        lr, b1 = h.lr + torch.zeros_like(s.lr_max), h.b1 + torch.zeros_like(s.b1)
        if self.warmup_steps:
            lr = lr * torch.clamp(step.to(lr.dtype) / self.warmup_steps, max=1)
        lr_max = torch.maximum(s.lr_max, lr)
        averaged = self._weights(s, step, lr_max)
        share = torch.where(averaged > 0, 1 / torch.clamp(averaged, min=1), 0)
        # How much of the way to z remains when the average moves, also when b1 has changed.
        towards = share + (1 - share) * (1 - divide(b1, s.b1))
        moved = lr * u
        out = towards * (s.z.to(u.dtype) - p) + (b1 * (1 - share) - 1) * moved
        return out, ScheduleFreeState(step, s.z - moved.to(s.z.dtype), lr_max, averaged, b1)

    def _weights(self, s: ScheduleFreeState, step: Tensor, lr_max: Tensor) -> Tensor:
        """The sum of all weights t^r lr_max^power over the newest of them; 0 before any weight.

        In these units equal weights are counted exactly, however small they are.
        """
        rest, one = s.averaged, torch.ones_like(s.averaged)
        if self.r:
            rest = rest * (s.step.to(rest.dtype) / step.to(rest.dtype)) ** self.r
        if self.weight_lr_power:
            before = s.lr_max > 0  # otherwise there is no weight yet, and no ratio to take
            ratio = torch.where(before, s.lr_max, 1) / torch.where(before, lr_max, 1)
            rest = rest * ratio**self.weight_lr_power
            one = (lr_max > 0).to(rest.dtype)
        return rest + one


def schedule_free(
    inner: GradientTransformation,
    lr: Hyper,
    b1: Hyper = 0.9,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
) -> Chain:
    """Replace a decaying learning rate by an average of the iterates.

    The inner transform turns the gradient, taken at the parameters y, into a direction n; it has
    no learning rate of its own. With t = 1, 2, ..., and for every leaf,

        lr_t = lr min(t / warmup_steps, 1);  w_t = t^r max(lr_1 .. lr_t)^weight_lr_power
        z <- z - lr_t n;  x <- x + (w_t / sum(w)) (z - x);  y <- (1 - b1) z + b1 x

    from x = y = z. The parameters are y, where to train; evaluate and publish x, which
    ``schedule_free_eval_params`` gives. Only z is stored.

    Args:
        inner: what gives the direction, for example ``gx.scale_by_rms()``.
        lr: learning rate >= 0.
        b1: how far y stands from z towards x, in (0, 1].
        warmup_steps: updates over which the learning rate grows to ``lr``.
        r: power of t in the weights of the average, >= 0.
        weight_lr_power: power of the learning rate in the weights, >= 0.

    Raises:
        ValueError: a value outside its range, or no parameters given to ``update``.

    Source: arXiv 2405.15682.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.schedule_free(gx.identity(), lr=1.0), {"w": torch.tensor([8.0])}
    >>> state = tx.init(params)
    >>> for _ in range(3):  # z: 6, 4.5, 3.21; x: 6, 5.25, 4.57
    ...     updates, state = tx.update({"w": params["w"] / 4}, state, params)
    ...     params = gx.apply_updates(params, updates)
    >>> print(f"{params['w'].item():.2f}")
    4.43
    """
    return chain(inner, _ScheduleFree(lr, b1, warmup_steps, r, weight_lr_power))


def evaluation_point(y: Tensor, z: Tensor, b1: Tensor) -> Tensor:
    """The average x from the training point y, in y's dtype."""
    wide = y.to(z.dtype)
    return (wide + (1 - 1 / b1) * (z - wide)).to(y.dtype)


def training_point(x: Tensor, z: Tensor, b1: Tensor) -> Tensor:
    """The training point y from the average x, in x's dtype."""
    wide = x.to(z.dtype)
    return (wide + (1 - b1) * (z - wide)).to(x.dtype)


def schedule_free_eval_params(state: PyTree, params: PyTree) -> PyTree:
    """The parameters to evaluate with: ``x = y + (1 - 1 / b1) (z - y)``.

    Args:
        state: the state of a chain that contains ``schedule_free``, however deep.
        params: the parameters y that the chain trains. Leaves that ``schedule_free`` does not
            treat, and None leaves, are returned as they are.

    Raises:
        ValueError: the state has no ``schedule_free`` member for these parameters.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.schedule_free(gx.identity(), lr=1.0), {"w": torch.tensor([8.0])}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.ones(1)}, state, params)
    ...     params = gx.apply_updates(params, updates)
    >>> gx.schedule_free_eval_params(state, params)  # the mean of 7 and 6
    {'w': tensor([6.5000])}
    """
    return _convert("schedule_free_eval_params", evaluation_point, state, params)


def schedule_free_train_params(state: PyTree, params: PyTree) -> PyTree:
    """The inverse of ``schedule_free_eval_params``, to rounding: ``y = x + (1 - b1) (z - x)``.

    Args:
        state: the state of a chain that contains ``schedule_free``, however deep.
        params: the evaluation parameters x.

    Raises:
        ValueError: the state has no ``schedule_free`` member for these parameters.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.schedule_free(gx.identity(), lr=1.0), {"w": torch.tensor([8.0])}
    >>> updates, state = tx.update({"w": torch.ones(1)}, tx.init(params), params)
    >>> y = gx.apply_updates(params, updates)
    >>> x = gx.schedule_free_eval_params(state, y)
    >>> torch.allclose(gx.schedule_free_train_params(state, x)["w"], y["w"])
    True
    """
    return _convert("schedule_free_train_params", training_point, state, params)


def _convert(
    who: str, point: Callable[[Tensor, Tensor, Tensor], Tensor], state: PyTree, params: PyTree
) -> PyTree:
    leaves, spec = tree.flatten(params)
    found = list(_states(state, spec))
    if not found:
        raise ValueError(f"{who}: the state has no schedule_free member for these parameters")
    for states in found:
        leaves = [
            point(p, s.z, s.b1) if p is not None and isinstance(s, ScheduleFreeState) else p
            for p, s in zip(leaves, states, strict=True)
        ]
    return spec.unflatten(leaves)


def _states(state: PyTree, spec: Any) -> Iterator[list[Any]]:
    """Per-leaf states, wherever the state has the structure of the parameters."""
    at_leaves = spec.flatten_up_to(state) if tree.matches(spec, state) else []
    if any(isinstance(s, ScheduleFreeState) for s in at_leaves):
        yield at_leaves
        return
    for _, child in tree.children(state) or ():
        yield from _states(child, spec)
