"""Apply an inner transform only on some steps, without branching on values.

Both outcomes are computed and chosen with ``where``: no host sync, and vmap, compilation and graph
capture work. A step that is not applied leaves the inner state, its counters included, as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from . import tree
from .checks import check_tensors
from .execution import Execution
from .hyper import static
from .leaves import ANY_UPDATE, isfinite_leaf, leaf_if
from .protocol import Wrapper
from .reduce import LOCAL
from .state import advance, new_count
from .tree import PyTree


class ApplyIfFiniteState(NamedTuple):
    """Attributes: the counters of ``apply_if_finite`` (int32, bool, int32) and the inner state."""

    notfinite_count: Tensor
    last_finite: Tensor
    total_notfinite: Tensor
    inner_state: PyTree


@dataclass(frozen=True)
class apply_if_finite(Wrapper):
    """Skip steps whose updates are not finite: zero updates, inner state unchanged.

    After ``max_consecutive_errors`` such steps in a row the update is let through, so that a run
    that is broken for good shows it.

    Args:
        transform: the inner transform.
        max_consecutive_errors: how many non-finite steps in a row are skipped, >= 0.

    Raises:
        ValueError: ``max_consecutive_errors`` is negative.

    >>> import torch, gradtx as gx
    >>> tx = gx.apply_if_finite(gx.trace(0.9), max_consecutive_errors=2)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> updates, state = tx.update({"w": torch.tensor([torch.inf])}, state)
    >>> updates["w"].item(), state.total_notfinite.item(), state.inner_state["w"].trace.item()
    (0.0, 1, 0.0)
    """

    execution: ClassVar[Execution] = Execution(reduces=True)

    max_consecutive_errors: int = static(5, at_least=0)

    def init(self, params: PyTree) -> ApplyIfFiniteState:
        count = new_count(tree.leaves(params))
        return ApplyIfFiniteState(
            count,
            torch.ones_like(count, dtype=torch.bool),
            count.clone(),
            self.transform.init(params),
        )

    def update(
        self,
        updates: PyTree,
        state: ApplyIfFiniteState,
        params: PyTree = None,
        **extra: Any,
    ) -> tuple[PyTree, PyTree]:
        check_tensors(self.name, updates, params, accepts=ANY_UPDATE)
        bad = [(~isfinite_leaf(x)).sum() for x in tree.leaves(updates)]
        any_bad = torch.stack(bad).sum() if bad else torch.zeros_like(state.notfinite_count)
        finite = extra.get("reduce", LOCAL).sum(any_bad) == 0
        count = torch.where(finite, 0, advance(state.notfinite_count)).to(torch.int32)
        go = finite | (count > self.max_consecutive_errors)
        # Zeros in a step that is skipped: nothing inside has to refuse it.
        updates = tree.map(lambda u: leaf_if(go, u), updates)
        new, inner = self.update_transform(updates, state.inner_state, params, extra)
        return (
            tree.map(lambda u: leaf_if(go, u), new),
            ApplyIfFiniteState(
                count,
                finite,
                torch.where(finite, state.total_notfinite, advance(state.total_notfinite)),
                tree.where(go, inner, state.inner_state),
            ),
        )


@dataclass(frozen=True)
class skip_large_updates(Wrapper):
    """Skip steps whose global norm is too large or not finite: zero updates, state unchanged.

    Args:
        transform: the inner transform.
        max_norm: largest global norm of the incoming updates that is applied, > 0.

    Raises:
        ValueError: ``max_norm`` is not positive.

    >>> import torch, gradtx as gx
    >>> tx = gx.skip_large_updates(gx.scale(-1.0), max_norm=2.0)
    >>> tx.update({"w": torch.full((4,), 5.0)}, tx.init({"w": torch.zeros(4)}))[0]["w"].tolist()
    [0.0, 0.0, 0.0, 0.0]
    """

    execution: ClassVar[Execution] = Execution(reduces=True)

    max_norm: float = static(within="(0, inf]")

    def init(self, params: PyTree) -> PyTree:
        return self.transform.init(params)

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        check_tensors(self.name, updates, params, accepts=ANY_UPDATE)
        norm = extra.get("reduce", LOCAL).sum(tree.global_norm(updates).square()).sqrt()
        go = (norm <= self.max_norm) & torch.isfinite(norm)
        new, inner = self.update_transform(updates, state, params, extra)
        return tree.map(lambda u: leaf_if(go, u), new), tree.where(go, inner, state)


_OWN = ("grads", "hyper", "reduce", "unit")  # what wrappers and executors pass on


class ConditionallyTransformState(NamedTuple):
    """Attributes: ``step``, int32 calls so far, and the inner state."""

    step: Tensor
    inner_state: PyTree


@dataclass(frozen=True)
class conditionally_transform(Wrapper):
    """Apply the inner transform when a condition holds; otherwise updates pass through unchanged.

    Args:
        transform: the inner transform.
        should_transform: ``count -> bool tensor`` (int32 count of calls before this one).
        forward_extra_args: whether it is called with the caller's further arguments of ``update``
            too, by name.

    >>> import torch, gradtx as gx
    >>> tx = gx.conditionally_transform(gx.scale(0.0), lambda count: count >= 1)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> first, state = tx.update({"w": torch.ones(1)}, state)
    >>> second, state = tx.update({"w": torch.ones(1)}, state)
    >>> first["w"].item(), second["w"].item()
    (1.0, 0.0)
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    should_transform: Callable[..., Tensor]
    forward_extra_args: bool = static(False)

    def init(self, params: PyTree) -> ConditionallyTransformState:
        return ConditionallyTransformState(
            new_count(tree.leaves(params)), self.transform.init(params)
        )

    def update(
        self,
        updates: PyTree,
        state: ConditionallyTransformState,
        params: PyTree = None,
        **extra: Any,
    ) -> tuple[PyTree, PyTree]:
        given = {k: v for k, v in extra.items() if k not in _OWN} if self.forward_extra_args else {}
        go = self.should_transform(state.step, **given)
        go = torch.as_tensor(go, dtype=torch.bool, device=state.step.device)
        new, inner = self.update_transform(updates, state.inner_state, params, extra)
        return (
            self._without(go, new, updates),
            ConditionallyTransformState(
                advance(state.step), tree.where(go, inner, state.inner_state)
            ),
        )

    def _without(self, go: Tensor, new: PyTree, updates: PyTree) -> PyTree:
        """The updates of a step, where the condition may not hold."""
        return tree.where(go, new, updates)


@dataclass(frozen=True)
class conditionally_mask(conditionally_transform):
    """Apply the inner transform when a condition holds; otherwise the updates are zero.

    Args:
        transform: the inner transform.
        should_transform: ``count -> bool tensor`` (int32 count of calls before this one).
        forward_extra_args: whether it is called with the caller's further arguments of ``update``
            too, by name.

    >>> import torch, gradtx as gx
    >>> tx = gx.conditionally_mask(gx.scale(2.0), lambda count: count >= 1)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> first, state = tx.update({"w": torch.ones(1)}, state)
    >>> second, state = tx.update({"w": torch.ones(1)}, state)
    >>> first["w"].item(), second["w"].item()
    (0.0, 2.0)
    """

    def _without(self, go: Tensor, new: PyTree, updates: PyTree) -> PyTree:
        return tree.map(lambda u: leaf_if(go, u), new)
