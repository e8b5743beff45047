"""Sharpness-aware minimization: gradients are taken where an adversary has moved the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import tree
from ..core.apply import apply_updates
from ..core.checks import check_tensors
from ..core.errors import described
from ..core.hyper import static
from ..core.leaf_states import filled, per_leaf
from ..core.leaves import ANY_UPDATE, densify_leaf
from ..core.protocol import GradientTransformation
from ..core.state import new_count
from ..core.tree import PyTree


class SamState(NamedTuple):
    """State of ``sam``.

    Attributes:
        steps_since_sync: int32, adversarial steps since the last step of the optimizer.
        opt_state: state of the optimizer.
        adv_state: state of the adversary.
        cache: the parameters that the adversary started from; () where it does not show.
    """

    steps_since_sync: Tensor
    opt_state: PyTree
    adv_state: PyTree
    cache: PyTree


@dataclass(frozen=True)
class sam(GradientTransformation):
    """Step from where the parameters are, with the gradient of where an adversary goes.

    ``sync_period - 1`` times p <- p - v with the adversary's updates v (it ascends, being made for
    descent); then p goes back, and on by the optimizer's update. ``normalize_by_update_norm(rho)``
    after ``scale(-1.0)`` is the adversary of the paper.

    Args:
        optimizer: what steps, learning rate included.
        adv_optimizer: what the adversary would do to descend.
        sync_period: gradients per step, >= 1.
        reset_state: whether the adversary starts afresh after every step.
        opaque_mode: whether ``update`` asks ``grad_fn(params, i)`` for the adversary's gradients,
            so that every call is a step. Otherwise every call is one gradient, and parameters are
            the adversary's in between; a leaf without one at the last stays where it is.

    Raises:
        ValueError: ``sync_period`` < 1, or no parameters, or no ``grad_fn`` where it is needed.

    Source: arXiv 2010.01412.

    >>> import torch, gradtx as gx
    >>> adversary = gx.chain(gx.scale(-1.0), gx.normalize_by_update_norm(0.5))
    >>> tx, w = gx.sam(gx.sgd(0.1), adversary, opaque_mode=True), torch.tensor([1.0])
    >>> tx.update(2 * w, tx.init(w), w, grad_fn=lambda w, i: 2 * w)[0]  # the gradient at 1.5
    tensor([-0.3000])
    """

    optimizer: GradientTransformation
    adv_optimizer: GradientTransformation
    sync_period: int = static(2, at_least=1, steps=True)
    reset_state: bool = True
    opaque_mode: bool = False

    def __post_init__(self) -> None:
        for name, tx in self.inner.items():
            if not isinstance(tx, GradientTransformation):
                raise TypeError(
                    f"sam: {name} must be a GradientTransformation, got {described(tx)}"
                )

    @property
    def inner(self) -> Mapping[str, GradientTransformation]:
        return {"optimizer": self.optimizer, "adv_optimizer": self.adv_optimizer}

    @property
    def evaluates(self) -> bool:  # type: ignore[override]
        return self.opaque_mode

    def init(self, params: PyTree) -> SamState:
        check_tensors(self.name, params, what="parameter")
        return SamState(
            new_count(tree.leaves(params)),
            self.optimizer.init(params),
            self.adv_optimizer.init(params),
            () if self.opaque_mode else per_leaf(lambda p: tree.accumulator(p).clone(), params),
        )

    def update(
        self, updates: PyTree, state: SamState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, SamState]:
        if params is None:
            raise ValueError("sam: needs the parameters; call update(updates, state, params)")
        check_tensors(self.name, updates, params, accepts=ANY_UPDATE)
        if self.opaque_mode:
            return self._opaque(updates, state, params, extra)
        tree.flatten_like(self.name, tree.flatten(updates)[1], state.cache, "state")
        first = state.steps_since_sync == 0
        last = state.steps_since_sync >= self.sync_period - 1
        cache = tree.map(lambda p, c: torch.where(first, p.to(c.dtype), c), params, state.cache)
        ascent, adv_state = self._ascent(updates, state.adv_state, params, extra)
        steps, opt_state = self.update_inner("optimizer", updates, state.opt_state, cache, extra)
        outs = tree.map(
            lambda u, c, p, v: torch.where(last, c - p.to(c.dtype) + densify_leaf(u), v),
            steps,
            cache,
            params,
            ascent,
        )
        before = self.adv_optimizer.init(params) if self.reset_state else state.adv_state
        return outs, SamState(
            torch.where(last, 0, state.steps_since_sync + 1).to(torch.int32),
            tree.where(last, opt_state, state.opt_state),
            tree.where(last, before, adv_state),
            filled(cache, state.cache),
        )

    def _ascent(
        self, updates: PyTree, state: PyTree, params: PyTree, extra: Mapping[str, Any]
    ) -> tuple[PyTree, PyTree]:
        found, state = self.update_inner("adv_optimizer", updates, state, params, extra)
        return tree.map(lambda v: -densify_leaf(v), found), state

    def _opaque(
        self, updates: PyTree, state: SamState, params: PyTree, extra: Mapping[str, Any]
    ) -> tuple[PyTree, SamState]:
        grad_fn: Callable[[PyTree, int], PyTree] | None = extra.get("grad_fn")
        if grad_fn is None and self.sync_period > 1:
            raise ValueError(
                "sam: needs grad_fn; pass grad_fn=lambda params, i: ... to update "
                "(a torch optimizer: gx.optim.SAM and step(closure))"
            )
        at, adv_state, seen = params, state.adv_state, extra
        for i in range(self.sync_period - 1):
            ascent, adv_state = self._ascent(updates, adv_state, at, seen)
            at = apply_updates(at, ascent)
            assert grad_fn is not None
            updates = grad_fn(at, i)
            seen = {**extra, "grads": updates}
        if self.reset_state:
            adv_state = self.adv_optimizer.init(params)
        out, opt_state = self.update_inner("optimizer", updates, state.opt_state, params, seen)
        return out, SamState(state.steps_since_sync, opt_state, adv_state, ())
