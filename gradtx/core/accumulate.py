"""Gradients or updates over several calls: multi_steps, apply_every, lookahead."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor

from . import tree
from .checks import check_tensors
from .errors import TreeMismatchError, described, shape_mismatch
from .execution import Execution
from .fields import check_steps
from .hyper import Values, static
from .leaf_states import filled, per_leaf
from .leaves import ANY_UPDATE, LeafInfo, densify_leaf, leaf_if
from .protocol import Wrapper
from .reduce import LOCAL, Reduce
from .state import advance, new_count, state_zeros
from .transform import LeafTransform
from .tree import PyTree


def _check_period(who: str, name: str, value: Any) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not callable(value) and not (whole and value >= 1):
        raise ValueError(f"{who}: {name} must be an integer >= 1 or a schedule, got {value!r}")
    check_steps(who, name, value)


class Gathered(NamedTuple):
    """Attributes: ``step``, int32, gradients in the mean or sum; ``mean``, shaped like the leaf."""

    step: Tensor
    mean: Tensor


class MultiStepsState(NamedTuple):
    """State of ``multi_steps``.

    Attributes:
        mini_step: int32 in [0, k), calls since the last applied update.
        gradient_step: int32, updates applied.
        gathered: per leaf the mean (or sum) of its gradients, a buffer the size of the leaf.
        value: 0-d, the mean of what the calls passed as ``value``.
        inner_state: state of the inner transform, which counts applied updates only.
        skip_state: what the function of skipping had to say of the last call; () without one.
    """

    mini_step: Tensor
    gradient_step: Tensor
    gathered: PyTree
    value: Tensor
    inner_state: PyTree
    skip_state: PyTree = ()


SkipFunction: TypeAlias = Callable[..., tuple[Tensor, PyTree]]


@dataclass(frozen=True)
class multi_steps(Wrapper):
    """Average gradients over ``every_k`` calls and apply the inner transform once.

    The calls between give zero updates; structured ones become tensors. Of a ``value`` that calls
    pass the inner transform sees the mean, of trees such as ``hessian`` that of the last call. A
    leaf's mean is that of its own gradients; if it has none in the last call, it keeps what it has
    gathered for the next time. It keeps one buffer the size of the parameters; with torch modules,
    accumulating in ``.grad`` costs none. ``every_k=1`` changes nothing but the buffer.

    Args:
        transform: the inner transform.
        every_k: calls per applied update, >= 1; or a function that gives it for the number of
            updates applied so far (0-d int32).
        use_grad_mean: whether gradients and values are averaged; else they are added up.
        should_skip_update_fn: ``(updates, gradient_step, params) -> (flag, anything)``, such as
            ``gx.skip_not_finite``: where the flag, a 0-d bool tensor, holds, it is as if the call
            had not been made. ``anything``, a tree of tensors, is kept as ``skip_state``. If it has
            an argument ``reduce``, it gets what adds up over leaves and shards; of shards, all
            skip what one of them skips.

    Raises:
        ValueError: ``every_k`` < 1, or a flag that is no 0-d bool tensor.

    >>> import torch, gradtx as gx
    >>> tx = gx.multi_steps(gx.scale(-1.0), every_k=2)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> first, state = tx.update({"w": torch.tensor([1.0])}, state)
    >>> second, state = tx.update({"w": torch.tensor([3.0])}, state)
    >>> first["w"].item(), second["w"].item()
    (0.0, -2.0)
    """

    execution: ClassVar[Execution] = Execution(
        leaves_independent=lambda tx: tx.should_skip_update_fn is None
    )

    every_k: int | Callable[[Tensor], int | Tensor] = static(1, check=_check_period)
    use_grad_mean: bool = True
    should_skip_update_fn: SkipFunction | None = None

    def init(self, params: PyTree) -> MultiStepsState:
        check_tensors(self.name, params, what="parameter")
        count = new_count(tree.leaves(params))
        empty = per_leaf(lambda p: Gathered(new_count([p]), state_zeros(p)), params)
        dtypes = [tree.accumulator_dtype(p.dtype) for p in tree.leaves(params)]
        wide = functools.reduce(torch.promote_types, dtypes, torch.float32)
        value = torch.zeros((), dtype=wide, device=count.device)
        inner = self.transform.init(params)
        skipped: PyTree = ()
        if self.should_skip_update_fn is not None:
            zeros = tree.map(state_zeros, params)
            skipped = self._should_skip(self.should_skip_update_fn, zeros, count, params, LOCAL)[1]
        return MultiStepsState(count, count.clone(), empty, value, inner, skipped)

    def update(
        self, updates: PyTree, state: MultiStepsState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        check_tensors(self.name, updates, params, accepts=ANY_UPDATE)
        updates = tree.map(densify_leaf, updates)
        self._check_gathered(updates, state.gathered)
        gathered = tree.map(self._gather, updates, state.gathered)
        mean = tree.map(lambda g, s: s.mean, updates, gathered)
        every_k = self.every_k(state.gradient_step) if callable(self.every_k) else self.every_k
        emit = state.mini_step >= every_k - 1
        value, extra = state.value, {**extra, "grads": mean}
        if extra.get("value") is not None:
            calls = state.mini_step + 1
            value = self._joined(value, extra["value"], calls)
            extra["value"] = value
        new, inner = self.update_transform(mean, state.inner_state, params, extra)
        # A leaf without a gradient in this call is not emitted and keeps what it has gathered.
        left = tree.map(lambda g, s: tree.where(~emit, s, tree.zeros_like(s)), updates, gathered)
        out = MultiStepsState(
            torch.where(emit, 0, advance(state.mini_step)).to(torch.int32),
            torch.where(emit, advance(state.gradient_step), state.gradient_step),
            filled(left, state.gathered),
            torch.where(emit, 0, value).to(state.value.dtype),
            tree.where(emit, inner, state.inner_state),
        )
        if self.should_skip_update_fn is None:
            return tree.map(lambda u: leaf_if(emit, u), new), out
        skip, note = self._should_skip(
            self.should_skip_update_fn,
            updates,
            state.gradient_step,
            params,
            extra.get("reduce", LOCAL),
        )
        kept = tree.where(~skip, out, state._replace(skip_state=()))
        emit = emit & ~skip
        return tree.map(lambda u: leaf_if(emit, u), new), kept._replace(skip_state=note)

    def _joined(self, old: Tensor, new: Any, calls: Tensor) -> Tensor:
        """A mean or a sum with one more call in it, which is the ``calls``-th."""
        return old + (new - old) / calls.to(old.dtype) if self.use_grad_mean else old + new

    def _gather(self, g: Tensor, s: Gathered) -> Gathered:
        n = advance(s.step)
        return Gathered(n, self._joined(s.mean, g.to(s.mean.dtype), n))

    def _should_skip(
        self, fn: SkipFunction, updates: PyTree, step: Tensor, params: PyTree, reduce: Reduce
    ) -> tuple[Tensor, PyTree]:
        whole = "reduce" in inspect.signature(fn).parameters
        given = fn(updates, step, params, **({"reduce": reduce} if whole else {}))
        if not isinstance(given, tuple) or len(given) != 2:
            raise ValueError(
                f"{self.name}: should_skip_update_fn must give a 0-d bool tensor and a tree, "
                f"got {described(given)}"
            )
        flag, note = given
        if not isinstance(flag, Tensor) or flag.dtype != torch.bool or flag.ndim:
            what = (
                f"{flag.dtype} of shape {tuple(flag.shape)}" if isinstance(flag, Tensor) else flag
            )
            raise ValueError(
                f"{self.name}: should_skip_update_fn must give a 0-d bool tensor and a tree, "
                f"got {what!r} for the flag"
            )
        if not whole:  # the share of shards that skip
            flag = reduce.mean(flag.to(torch.float32)) > 0
        return flag, note

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

    k: int = static(1, at_least=1, steps=True)

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
        reset_state: whether the fast optimizer starts anew at a synchronisation.

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

    sync_period: int = static(6, at_least=1, steps=True)
    slow_step_size: float = static(0.5, within="[0, 1]")
    reset_state: bool = static(False)

    def init(self, params: PyTree) -> LookaheadState:
        check_tensors(self.name, params, what="parameter")
        slow = per_leaf(lambda p: tree.accumulator(p).clone(), params)
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
        if self.reset_state:
            inner = tree.where(sync, self.transform.init(params), inner)

        def slow_leaf(u: Tensor, p: Tensor, slow: Tensor) -> Tensor:
            fast = p.to(slow.dtype) + u
            return torch.where(sync, slow + self.slow_step_size * (fast - slow), slow)

        slow = tree.map(slow_leaf, new, params, state.slow)
        out = tree.map(lambda u, p, w: torch.where(sync, w - p.to(w.dtype), u), new, params, slow)
        return out, LookaheadState(step, filled(slow, state.slow), inner)
