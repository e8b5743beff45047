"""Gradients or updates over several calls: multi_steps, apply_every, lookahead."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from . import tree
from .checks import check_tensors
from .errors import TreeMismatchError, shape_mismatch
from .execution import Execution
from .hyper import Values, static
from .leaves import ANY_UPDATE, LeafInfo, densify_leaf, leaf_if
from .protocol import Wrapper
from .state import advance, new_count, state_zeros
from .transform import LeafTransform
from .tree import PyTree


def _check_period(who: str, name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{who}: {name} must be an integer >= 1, got {value!r}")


class Gathered(NamedTuple):
    """Attributes: ``step``, int32, gradients in the mean; ``mean``, shaped like the parameter."""

    step: Tensor
    mean: Tensor


class MultiStepsState(NamedTuple):
    """State of ``multi_steps``.

    Attributes:
        mini_step: int32 in [0, k), calls since the last applied update.
        gradient_step: int32, updates applied.
        gathered: per leaf the mean of its gradients, one buffer the size of the parameters.
        value: 0-d, the mean of what the calls passed as ``value``.
        inner_state: state of the inner transform, which counts applied updates only.
    """

    mini_step: Tensor
    gradient_step: Tensor
    gathered: PyTree
    value: Tensor
    inner_state: PyTree


@dataclass(frozen=True)
class multi_steps(Wrapper):
    """Average gradients over ``every_k`` calls and apply the inner transform once.

    The calls between give zero updates; structured ones become tensors. Of a ``value`` that calls
    pass the inner transform sees the mean, of trees such as ``hessian`` that of the last call. It
    keeps one buffer the size of the parameters; with torch modules, accumulating in ``.grad`` costs
    none. ``every_k=1`` changes nothing but the buffer.

    Args:
        transform: the inner transform.
        every_k: calls per applied update, >= 1.

    Raises:
        ValueError: ``every_k`` < 1.

    >>> import torch, gradtx as gx
    >>> tx = gx.multi_steps(gx.scale(-1.0), every_k=2)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> first, state = tx.update({"w": torch.tensor([1.0])}, state)
    >>> second, state = tx.update({"w": torch.tensor([3.0])}, state)
    >>> first["w"].item(), second["w"].item()
    (0.0, -2.0)
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    every_k: int = 1

    def __post_init__(self) -> None:
        _check_period(self.name, "every_k", self.every_k)

    def init(self, params: PyTree) -> MultiStepsState:
        check_tensors(self.name, params, what="parameter")
        count = new_count(tree.leaves(params))
        empty = _per_leaf(lambda p: Gathered(new_count([p]), state_zeros(p)), params)
        dtypes = [tree.accumulator_dtype(p.dtype) for p in tree.leaves(params)]
        wide = functools.reduce(torch.promote_types, dtypes, torch.float32)
        value = torch.zeros((), dtype=wide, device=count.device)
        return MultiStepsState(count, count.clone(), empty, value, self.transform.init(params))

    def update(
        self, updates: PyTree, state: MultiStepsState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        check_tensors(self.name, updates, params, accepts=ANY_UPDATE)
        updates = tree.map(densify_leaf, updates)
        self._check_gathered(updates, state.gathered)
        gathered = tree.map(_gather, updates, state.gathered)
        mean = tree.map(lambda g, s: s.mean, updates, gathered)
        emit = state.mini_step >= self.every_k - 1
        value, extra = state.value, {**extra, "grads": mean}
        if extra.get("value") is not None:
            value = value + (extra["value"] - value) / (state.mini_step + 1)
            extra["value"] = value
        new, inner = self.update_transform(mean, state.inner_state, params, extra)
        # A leaf without a gradient in this call is not emitted and keeps what it has gathered.
        left = tree.map(lambda g, s: tree.where(~emit, s, tree.zeros_like(s)), updates, gathered)
        return (
            tree.map(lambda u: leaf_if(emit, u), new),
            MultiStepsState(
                torch.where(emit, 0, advance(state.mini_step)).to(torch.int32),
                torch.where(emit, advance(state.gradient_step), state.gradient_step),
                _fill(left, state.gathered),
                torch.where(emit, 0, value).to(state.value.dtype),
                tree.where(emit, inner, state.inner_state),
            ),
        )

    def _check_gathered(self, updates: PyTree, gathered: PyTree) -> None:
        leaves, spec = tree.flatten(updates)
        held = tree.flatten_like(self.name, spec, gathered, "state")
        for name, u, s in zip(tree.names(spec), leaves, held, strict=True):
            if u is None:
                continue
            if not isinstance(s, Gathered):
                raise TreeMismatchError(
                    f"multi_steps: leaf {name!r} has an update, but was not a leaf at init"
                )
            if s.mean.shape != u.shape:
                raise shape_mismatch(self.name, name, "update", u.shape, "state", s.mean.shape)


def _gather(g: Tensor, s: Gathered) -> Gathered:
    n = advance(s.step)
    return Gathered(n, s.mean + (g.to(s.mean.dtype) - s.mean) / n.to(s.mean.dtype))


def _per_leaf(fn: Callable[[Tensor], Any], params: PyTree) -> PyTree:
    """State per leaf; ``()`` where there is no parameter."""
    leaves, spec = tree.flatten(params)
    return spec.unflatten([() if p is None else fn(p) for p in leaves])


def _fill(tree_with_gaps: PyTree, other: PyTree) -> PyTree:
    """Where the first tree has None, the leaf of the second."""
    leaves, spec = tree.flatten(tree_with_gaps)
    others = spec.flatten_up_to(other)
    return spec.unflatten([o if x is None else x for x, o in zip(leaves, others, strict=True)])


class ApplyEveryState(NamedTuple):
    """Attributes: ``step``, int32 calls; ``acc``, the sum of updates since the last emission."""

    step: Tensor
    acc: Tensor


@dataclass(frozen=True)
class apply_every(LeafTransform):
    """Sum updates over ``k`` calls and emit the sum on the last; zero updates in between.

    Args:
        k: calls per emission, >= 1.

    Raises:
        ValueError: ``k`` < 1.

    >>> import torch, gradtx as gx
    >>> tx = gx.apply_every(2)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> first, state = tx.update({"w": torch.ones(1)}, state)
    >>> second, state = tx.update({"w": torch.ones(1)}, state)
    >>> first["w"].item(), second["w"].item()
    (0.0, 2.0)
    """

    densifies: ClassVar[bool] = True

    k: int = static(1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_period(self.name, "k", self.k)

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ApplyEveryState:
        return ApplyEveryState(new_count([p]), state_zeros(p))

    def update_leaf(
        self, u: Tensor, s: ApplyEveryState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ApplyEveryState]:
        total = s.acc + u
        step = advance(s.step, self.k)
        emit = step % self.k == 0
        zeros = torch.zeros_like(total)
        out = torch.where(emit, total, zeros)
        return out, ApplyEveryState(step, torch.where(emit, zeros, total))


class LookaheadState(NamedTuple):
    """Attributes: ``step``, int32 steps; ``slow``, the slow weights; the inner state."""

    step: Tensor
    slow: PyTree
    inner_state: PyTree


@dataclass(frozen=True)
class lookahead(Wrapper):
    """Slow weights that follow the fast ones: every ``sync_period`` steps both meet.

    fast <- fast + inner update; at a synchronisation slow <- slow + a (fast - slow), fast <- slow.
    The inner transform must contain its learning rate. The parameters are the fast weights.

    Args:
        transform: the fast optimizer, learning rate included.
        sync_period: steps between synchronisations, >= 1.
        slow_step_size: a in [0, 1].

    Raises:
        ValueError: a value outside its range, or no parameters given to ``update``.

    Source: arXiv 1907.08610.

    >>> import torch, gradtx as gx
    >>> tx = gx.lookahead(gx.sgd(1.0), sync_period=1, slow_step_size=0.5)
    >>> params = {"w": torch.zeros(1)}
    >>> tx.update({"w": torch.ones(1)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    sync_period: int = 6
    slow_step_size: float = 0.5

    def __post_init__(self) -> None:
        _check_period(self.name, "sync_period", self.sync_period)
        if not 0 <= self.slow_step_size <= 1:
            raise ValueError(
                f"lookahead: slow_step_size must be in [0, 1], got {self.slow_step_size}"
            )

    def init(self, params: PyTree) -> LookaheadState:
        check_tensors(self.name, params, what="parameter")
        slow = _per_leaf(lambda p: tree.accumulator(p).clone(), params)
        return LookaheadState(new_count(tree.leaves(params)), slow, self.transform.init(params))

    def update(
        self, updates: PyTree, state: LookaheadState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        if params is None:
            raise ValueError("lookahead: needs the parameters; call update(updates, state, params)")
        new, inner = self.update_transform(updates, state.inner_state, params, extra)
        new = tree.map(densify_leaf, new)
        step = advance(state.step, self.sync_period)
        sync = step % self.sync_period == 0

        def slow_leaf(u: Tensor, p: Tensor, slow: Tensor) -> Tensor:
            fast = p.to(slow.dtype) + u
            return torch.where(sync, slow + self.slow_step_size * (fast - slow), slow)

        slow = tree.map(slow_leaf, new, params, state.slow)
        out = tree.map(lambda u, p, w: torch.where(sync, w - p.to(w.dtype), u), new, params, slow)
        return out, LookaheadState(step, _fill(slow, state.slow), inner)
