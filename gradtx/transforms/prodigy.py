"""Prodigy: an estimate of the distance to the solution in place of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core import hyper as hyper_
from ..core import tree
from ..core.declared import Call, like
from ..core.errors import TreeMismatchError, shape_mismatch
from ..core.execution import Execution, NextShared
from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import densify_leaf
from ..core.protocol import Wrapper
from ..core.roots import root
from ..core.state import advance, new_count, state_zeros
from ..core.sums import element_sum
from ..core.transform import LeafTransform, TreeTransform
from ..core.tree import PyTree
from .moments import FirstMomentState, first_moment


class ProdigyShared(NamedTuple):
    """What all leaves share. Everything but ``step`` is float64.

    Attributes:
        step: int32, updates done.
        d: the estimated distance, with which the next step is made.
        d_max: largest estimate so far.
        d_numerator: numerator of the estimate.
        dlr: d * lr as the last step used it, its bias correction included.
    """

    step: Tensor
    d: Tensor
    d_max: Tensor
    d_numerator: Tensor
    dlr: Tensor


class ProdigyLeaf(NamedTuple):
    """What the estimate keeps of one leaf, every ``slice_p``-th element of it.

    Attributes:
        s: weighted sum of gradients.
        p0: the parameter as it was at ``init``.
    """

    s: Tensor
    p0: Tensor


class ProdigyState(NamedTuple):
    """State of ``scale_by_prodigy``.

    Attributes:
        shared: what all leaves share.
        leaves: a ``ProdigyLeaf`` per leaf.
        inner_state: state of the inner transform.
    """

    shared: ProdigyShared
    leaves: PyTree
    inner_state: PyTree


@dataclass(frozen=True)
class scale_by_prodigy(TreeTransform, Wrapper):
    """Make steps of length d lr, where d estimates how far the solution is from the start.

    The inner transform receives d g and its result, weight decay included, is multiplied by
    -d lr. Over all leaves, <.,.> and |.| taken over every ``slice_p``-th element:

        num <- beta3 num + sum d/d0 d lr <g, p0 - p>;  s <- beta3 s + d/d0 d lr g
        estimate = d_coef num / sum |s|;  d <- max(d, estimate), at most d growth_rate

    The new d counts from the next step on, so leaves can be updated in any order. Constants of the
    inner transform that carry the unit of its updates, such as eps, are multiplied by d.
    ``gx.tree.get(state, "d")`` and ``gx.tree.get(state, "dlr")`` read what to log.

    Args:
        transform: the inner transform, without a learning rate.
        lr: multiple of d, >= 0; leave it at 1 or give it a schedule's shape. Leaves may differ
            only in that some have 0: they stand still and take no part in the estimate.
        b1: decay of the inner first moment, in [0, 1); used by ``bias_correction``.
        b2: decay of the inner second moment, in [0, 1); used by ``bias_correction`` and beta3.
        beta3: decay of the estimate's sums, in [0, 1); default sqrt(b2).
        d_coef: multiple of the estimate, > 0.
        d0: first d, > 0; every later one is at least as large.
        growth_rate: largest ratio of two successive d, >= 1.
        slice_p: the estimate looks at every ``slice_p``-th element of a leaf, >= 1.
        safeguard_warmup: weight d/d0 d in s, without lr, so that a warm-up of lr cannot make the
            estimate too large.
        steps: calls after which d stays as it is; 0 for never.
        d_limiter: an estimate counts at most as d 2^(1/4).
        bias_correction: multiply lr by sqrt(1 - b2^t) / (1 - b1^t).
        estimate_first: the new d already scales this step's eps, and a step whose sum of |s| is
            zero is left out; then a step needs all leaves at once.

    Raises:
        ValueError: a value outside its range, differing lr, or no parameters given to ``update``.

    Source: arXiv 2306.06101.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.scale_by_prodigy(gx.scale_by_adam(), d0=0.1), {"w": torch.ones(1)}
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update({"w": torch.ones(1)}, state, params)
    ...     params = gx.apply_updates(params, updates)
    >>> updates, gx.tree.get(state, "d").item() > 0.1
    ({'w': tensor([-0.1000])}, True)
    """

    execution: ClassVar[Execution] = Execution(
        leaves_independent=lambda tx: not tx.estimate_first,
        next_shared=NextShared(
            ProdigyState,
            "shared",
            lambda tx, shared, sums, hyper, count: tx.next_shared(shared, sums, hyper, count),
        ),
    )
    requires_params: ClassVar[bool] = True
    densifies: ClassVar[bool] = True
    of_leaf: ClassVar[tuple[str, ...]] = ("lr",)

    lr: Hyper = dynamic(1.0, within="[0, inf)")
    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1)")
    beta3: Hyper | None = dynamic(None, within="[0, 1)")
    d_coef: Hyper = dynamic(1.0, within="(0, inf)")
    d0: float = static(1e-6, within="(0, inf)")
    growth_rate: float = static(math.inf, within="[1, inf]")
    slice_p: int = static(11, at_least=1)
    safeguard_warmup: bool = static(False)
    steps: int = static(0, at_least=0)
    d_limiter: bool = static(False)
    bias_correction: bool = static(False)
    estimate_first: bool = static(False)

    @cached_property
    def declared(self) -> Mapping[str, str]:  # type: ignore[override]
        """The dynamic hyperparameters that count with these options."""
        unused = set()
        if self.beta3 is None:
            unused.add("beta3")
        elif not self.bias_correction:
            unused.add("b2")
        if not self.bias_correction:
            unused.add("b1")
        return {k: v for k, v in hyper_.declare(type(self)).items() if k not in unused}

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> ProdigyState:
        step = new_count(leaves)
        d = torch.full((), self.d0, dtype=torch.float64, device=step.device)
        zero = torch.zeros_like(d)
        kept = [() if p is None else self._init_leaf(p) for p in leaves]
        shared = ProdigyShared(step, d, d.clone(), zero, zero.clone())
        inner = self.transform.init(spec.unflatten(leaves))
        return ProdigyState(shared, spec.unflatten(kept), inner)

    def _init_leaf(self, p: Tensor) -> ProdigyLeaf:
        p = tree.accumulator(p)
        # A whole leaf keeps its memory order; of a part not even the stride of one element stays.
        order = torch.preserve_format if self.slice_p == 1 else torch.contiguous_format
        p0 = self._part(p).clone(memory_format=order)
        return ProdigyLeaf(state_zeros(p0), p0)

    def _part(self, x: Tensor) -> Tensor:
        """What the estimate sees of a leaf."""
        return x if self.slice_p == 1 else x.reshape(-1)[:: self.slice_p]

    def _update(
        self, call: Call, state: ProdigyState, values: dict[str, Any]
    ) -> tuple[PyTree, ProdigyState]:
        there = [i for i, u in enumerate(call.updates) if u is not None]
        kept = self._kept(call, state.leaves, there)
        old = state.shared
        first = call.common(self.name, there, values, self.of_leaf) if there else values
        rates = {i: call.values_at(i, values)["lr"] for i in there}
        lr = _common(list(rates.values()) or [values["lr"]])
        if not isinstance(lr, Tensor):
            lr = torch.full_like(old.d, lr)
        h = Values({**first, "lr": call.reduce.max(lr)})
        step_sizes = {i: old.d * self._correction(old, h) * rates[i] for i in there}

        numerators, denominators = [], []
        for i in there:
            p = self._part(tree.accumulator(call.params[i]))
            g = self._part(call.updates[i])
            dot = element_sum(g * (kept[i].p0 - p)).to(old.d)
            numerators.append(old.d / self.d0 * step_sizes[i] * dot)
            weight = _where_positive(rates[i], old.d) if self.safeguard_warmup else step_sizes[i]
            s = self._beta3(h) * kept[i].s + (old.d / self.d0 * weight).to(g) * g
            s = self._unless_frozen(old, like(s, kept[i].s), kept[i].s)
            kept[i] = ProdigyLeaf(s, kept[i].p0)
            denominators.append(element_sum(s.abs()).to(old.d))
        sums = (
            call.reduce.sum(tree.total([torch.zeros_like(old.d), *numerators])),
            call.reduce.sum(tree.total([torch.zeros_like(old.d), *denominators])),
        )
        new = self._finish(old, sums, h)

        fed = {i: call.updates[i] * old.d.to(call.updates[i]) for i in there}
        out, inner = self.update_transform(
            _scatter(call, fed),
            state.inner_state,
            call.spec.unflatten(call.params),
            {
                **call.extra,
                "grads": call.spec.unflatten(call.updates),
                "unit": new.d if self.estimate_first else old.d,
            },
        )
        outs = tree.leaves_like(self.name, call.spec, out, "inner update")
        for i in there:
            size = step_sizes[i]
            if self.estimate_first:
                size = torch.where(sums[1] == 0, 0.0, size)
            out_i = densify_leaf(outs[i])
            outs[i] = like(-size.to(out_i) * out_i, call.updates[i])
        return call.spec.unflatten(outs), ProdigyState(new, call.spec.unflatten(kept), inner)

    def _kept(self, call: Call, leaves: PyTree, there: list[int]) -> list[Any]:
        """What the estimate keeps, per leaf."""
        kept = tree.flatten_like(self.name, call.spec, leaves, "state")
        for i in there:
            name, u = call.names[i], call.updates[i]
            if kept[i] == ():
                raise TreeMismatchError(
                    f"{self.name}: leaf {name!r} has an update but no state; "
                    "it was None when init was called"
                )
            if kept[i].p0.shape != self._part(u).shape:
                raise shape_mismatch(
                    self.name, name, "update", u.shape, "state p0", kept[i].p0.shape
                )
        return kept

    def next_shared(
        self,
        shared: ProdigyShared,
        sums: tuple[Tensor, Tensor],
        hyper: Mapping[str, Any] | None = None,
        count: Tensor | None = None,
    ) -> ProdigyShared:
        """What all leaves share after a step in which leaves were updated one by one.

        Args:
            shared: what it was during the step.
            sums: the two values that ``update`` passed to ``reduce.sum``, added over all leaves.
            hyper: overrides as this transform sees them; of a tree the largest value counts.
            count: updates done before the step; for schedules.

        >>> import torch, gradtx as gx
        >>> tx = gx.scale_by_prodigy(gx.identity(), d0=0.5)
        >>> shared = tx.init({"w": torch.ones(1)}).shared
        >>> tx.next_shared(shared, (torch.tensor(3.0), torch.tensor(2.0))).d
        tensor(1.5000, dtype=torch.float64)
        """
        values = hyper_.values_at(self, count)
        for name, value in (hyper or {}).items():
            if name in values:
                values[name] = _common(tree.leaves(value)) if name == "lr" else _first(value)
        return self._finish(shared, sums, Values(values))

    def _finish(self, old: ProdigyShared, sums: tuple[Tensor, Tensor], h: Values) -> ProdigyShared:
        numerator = self._beta3(h) * old.d_numerator + sums[0]
        ready = sums[1] != 0  # NaN goes on into d, and from there into every leaf
        estimate = h.d_coef * numerator / torch.where(ready, sums[1], 1.0)
        if self.d_limiter:
            estimate = torch.minimum(estimate, old.d * 2**0.25)
        d = torch.where(old.d == self.d0, torch.maximum(old.d, estimate), old.d)
        d_max = torch.maximum(old.d_max, estimate)
        # Not d * inf: its derivative is not a number.
        d = d_max if self.growth_rate == math.inf else torch.minimum(d_max, d * self.growth_rate)
        dlr = old.d * self._correction(old, h) * h.lr
        step, moves = advance(old.step), ready
        if self.estimate_first:
            step, moves = torch.where(ready, step, old.step), ready & (dlr > 0)
            numerator = torch.where(ready, numerator, old.d_numerator)
        return ProdigyShared(
            step,
            self._unless_frozen(old, torch.where(moves, d, old.d), old.d),
            self._unless_frozen(old, torch.where(moves, d_max, old.d_max), old.d_max),
            self._unless_frozen(old, numerator, old.d_numerator),
            dlr,
        )

    def _unless_frozen(self, shared: ProdigyShared, new: Tensor, old: Tensor) -> Tensor:
        """The new value during the first ``steps`` calls, then the old one."""
        if not self.steps:
            return new
        return torch.where((shared.step < self.steps).to(new.device), new, old)

    def _beta3(self, h: Values) -> Any:
        if self.beta3 is not None:
            return h.beta3
        return root(h.b2) if isinstance(h.b2, Tensor) else h.b2**0.5

    def _correction(self, shared: ProdigyShared, h: Values) -> Any:
        """What multiplies lr for the bias of the inner moments."""
        if not self.bias_correction:
            return 1.0
        step = advance(shared.step)
        first, second = (one_minus_power(b, step, shared.d.dtype) for b in (h.b1, h.b2))
        return root(second) / first


@dataclass(frozen=True)
class NewestGradient(LeafTransform):
    """The gradient times the newest d, where ``scale_by_prodigy`` feeds it times the last one.

    A first moment gathers what it is fed. Without one the published step takes the gradient in the
    unit of its denominator's eps: the d of the same step, if the estimate comes first.
    """

    needs_grad: ClassVar[bool] = True
    needs_unit: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return "newest_gradient"

    def update_leaf(self, u: Tensor, s: Any, p: Tensor | None, h: Values) -> tuple[Tensor, Any]:
        return h.grad * h.unit, s


@dataclass(frozen=True)
class MomentOrNewestGradient(first_moment):
    """A first moment, and while its decay is zero the ``NewestGradient``.

    The decay may become zero from outside: as an override, a schedule's value or a tensor.
    """

    needs_grad: ClassVar[bool] = True
    needs_unit: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return "first_moment"

    def update_leaf(
        self, u: Tensor, s: FirstMomentState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, FirstMomentState]:
        mu, new = super().update_leaf(u, s, p, h)
        if isinstance(h.b1, Tensor):
            return torch.where(h.b1.to(mu.device) == 0, h.grad * h.unit, mu), new
        return (mu if h.b1 else h.grad * h.unit), new


def _common(rates: list[Any]) -> Any:
    """The learning rate of the leaves that move.

    Raises:
        ValueError: there are several.
    """
    distinct = list(dict.fromkeys(rates))
    numbers = sorted(r for r in distinct if not isinstance(r, Tensor) and r != 0)
    if len(numbers) > 1:
        raise ValueError(
            "scale_by_prodigy: lr must be the same for all leaves, or 0 for some, "
            f"got {numbers[0]} and {numbers[-1]}"
        )
    tensors = [r for r in distinct if isinstance(r, Tensor)]
    if not tensors:
        return numbers[0] if numbers else 0.0
    largest = tensors[0]
    for r in (*tensors[1:], *(torch.full_like(largest, x) for x in numbers)):
        largest = torch.maximum(largest, r)
    return largest


def _where_positive(rate: Any, value: Tensor) -> Tensor:
    """``value`` for a leaf that moves, zero for another."""
    if isinstance(rate, Tensor):
        return torch.where(rate > 0, value, 0.0)
    return value if rate > 0 else torch.zeros_like(value)


def _first(value: Any) -> Any:
    return value if isinstance(value, (int, float, Tensor)) else tree.leaves(value)[0]


def _scatter(call: Call, values: Mapping[int, Any]) -> PyTree:
    """A tree of the updates' structure, None where there is no value."""
    return call.spec.unflatten([values.get(i) for i in range(len(call.updates))])
