"""AC/DC: training that alternates between sparse and dense phases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..core import masks as masks_
from ..core import tree
from ..core.checks import can_read
from ..core.declared import Call, DeclaredTransform
from ..core.errors import TreeMismatchError, described
from ..core.hyper import static
from ..core.leaf_states import map_leaf_states
from ..core.leaves import LeafInfo, densify_leaf
from ..core.protocol import GradientTransformation, Wrapper
from ..core.roles import FIRST, roles
from ..core.state import advance, new_count
from ..core.tree import PyTree
from .keep import MaskState, Prunable, apply_masks, check_prunable, update_to_zero
from .phases import PhaseSchedule
from .support import Support, magnitude_support


class AcdcState(NamedTuple):
    """State of ``acdc``.

    Attributes:
        step: int32, updates done.
        masks: per leaf a ``MaskState``.
        inner_state: of the inner transform.
    """

    step: Tensor
    masks: PyTree
    inner_state: PyTree


@dataclass(frozen=True)
class Acdc(DeclaredTransform, Wrapper):
    """Sparse and dense phases around a transform; made by ``acdc``."""

    requires_params: ClassVar[bool] = True
    densifies: ClassVar[bool] = True

    schedule: PhaseSchedule = static(PhaseSchedule(()))
    support: Support = static(magnitude_support(0.9))
    reset: Literal["first_moments", "all", "nothing"] = static("first_moments")
    prunable: Prunable = static(masks_.matrices)

    @property
    def name(self) -> str:
        return "acdc"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (("schedule", PhaseSchedule), ("support", Support)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(
                    f"acdc: {name} must be a {kind.__name__}, got {described(getattr(self, name))}"
                )
        check_prunable(self.name, self.prunable)
        if self.reset not in ("first_moments", "all", "nothing"):
            raise ValueError(
                f"acdc: reset must be 'first_moments', 'all' or 'nothing', got {self.reset!r}"
            )

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> AcdcState:
        masks = []
        for name, p in zip(names, leaves, strict=True):
            info = None if p is None else LeafInfo.of(p, name)
            if info is None or not self.prunable(info):
                masks.append(MaskState(()))
                continue
            self.support.check(name, info.shape)
            masks.append(MaskState(torch.ones_like(p, dtype=torch.bool, requires_grad=False)))
        inner = self.transform.init(spec.unflatten(leaves))
        return AcdcState(new_count(leaves), spec.unflatten(masks), inner)

    def _update(
        self, call: Call, state: AcdcState, values: dict[str, Any]
    ) -> tuple[PyTree, AcdcState]:
        kept = tree.flatten_like(self.name, call.spec, state.masks, "state")
        for name, u, s in zip(call.names, call.updates, kept, strict=True):
            if u is not None and not isinstance(s, MaskState):
                raise TreeMismatchError(f"acdc: leaf {name!r} has an update but no state")
        old = [s.mask if isinstance(s, MaskState) else () for s in kept]
        params = call.spec.unflatten(call.params)
        masks, inner = self._events(call, params, old, state)
        shown = call.spec.unflatten([_shown(m) for m in masks])
        grads = apply_masks(call.spec.unflatten(call.updates), shown)
        extra = {**call.extra, "grads": grads}
        out, inner = self.update_transform(grads, inner, apply_masks(params, shown), extra)
        outs = tree.leaves_like(self.name, call.spec, out, "inner update")
        for i, (p, m) in enumerate(zip(call.params, masks, strict=True)):
            if outs[i] is not None:
                outs[i] = update_to_zero(densify_leaf(outs[i]), p, m)
        states = call.spec.unflatten([MaskState(m) for m in masks])
        return call.spec.unflatten(outs), AcdcState(advance(state.step), states, inner)

    def project(self, params: PyTree, state: AcdcState) -> PyTree:
        """The parameters that the forward pass of the next step is to see.

        Those that the masks of that step keep, chosen anew where it prunes; others are zero.

        Args:
            params: tree of tensors.
            state: as of the last update, or of ``init``.
        """
        leaves, spec = tree.flatten(params)
        kept = tree.flatten_like(self.name, spec, state.masks, "state")
        old = [s.mask if isinstance(s, MaskState) else () for s in kept]
        names = tree.names(spec)
        masks = self._masks(*self.schedule.due(state.step), names, leaves, old)
        return apply_masks(params, spec.unflatten([_shown(m) for m in masks]))

    def _masks(
        self, prune: Tensor, restore: Tensor, names: list[str], params: list[Any], masks: list[Any]
    ) -> list[Any]:
        """The masks of a step."""
        read = can_read(prune)
        if not read or bool(prune):
            masks = _chosen(prune, self._pruned(names, params, masks), masks)
        if not read or bool(restore):
            ones = [m if isinstance(m, tuple) else torch.ones_like(m) for m in masks]
            masks = _chosen(restore, ones, masks)
        return masks

    def _events(
        self, call: Call, params: PyTree, masks: list[Any], state: AcdcState
    ) -> tuple[list[Any], PyTree]:
        """Masks and inner state once this step's event has happened."""
        prune, restore = self.schedule.due(state.step)
        masks = self._masks(prune, restore, call.names, call.params, masks)
        inner = state.inner_state
        if not can_read(restore) or bool(restore):
            inner = tree.where(restore, self._reset(inner, params, call.spec), inner)
        return masks, inner

    def _pruned(self, names: list[str], params: list[Any], masks: list[Any]) -> list[Any]:
        there = [
            i for i, m in enumerate(masks) if not isinstance(m, tuple) and params[i] is not None
        ]
        if not there:
            if any(p is not None for p in params):
                raise ValueError(
                    f"acdc: prunable chooses none of the leaves {names}; it is a predicate "
                    "on gx.LeafInfo"
                )
            return masks
        weights = [params[i] for i in there]
        for i, w in zip(there, weights, strict=True):
            finite = torch.isfinite(w).all()
            if can_read(finite) and not bool(finite):
                raise ValueError(
                    f"acdc: leaf {names[i]!r} has a NaN or an infinity, by which no mask can "
                    "be chosen; nothing has been changed"
                )
        new = self.support.choose(weights, [masks[i] for i in there])
        out = list(masks)
        for i, m in zip(there, new, strict=True):
            out[i] = m
        return out

    def _reset(self, inner: PyTree, params: PyTree, spec: Any) -> PyTree:
        if self.reset == "all":
            return self.transform.init(params)
        if self.reset == "nothing":
            return inner
        return map_leaf_states(lambda i, s: _without_first_moments(s), inner, spec)


def acdc(
    inner: GradientTransformation,
    schedule: PhaseSchedule,
    support: Support | float = 0.9,
    reset: Literal["first_moments", "all", "nothing"] = "first_moments",
    prunable: Prunable = masks_.matrices,
) -> Acdc:
    """Alternate sparse phases, with a mask chosen by magnitude, and dense ones.

    Before a step that prunes: M <- support(p, M); that restores: M <- 1, and moments are reset.
    Then with x = M p: u <- inner(M g, x), p <- M (x + u). Masked parameters are exactly zero after
    a step; moments are not masked. ``project(params, state)`` of the transform gives the parameters
    that the forward pass of the next step should see, of the first sparse one too.

    Args:
        inner: any optimizer, learning rate and weight decay included; it sees M p and M g.
        schedule: when masks change, such as ``gx.sparsity.phases(("dense", 5), ("sparse", 5))``.
        support: the rule for masks, or the sparsity in [0, 1) of ``magnitude_support``.
        reset: at a restore, zero the "first_moments", start "all" state of inner anew, or
            "nothing". Counters and second moments stay with "first_moments".
        prunable: predicate on ``LeafInfo``, which leaves have masks; default those with two
            dimensions or more.

    Raises:
        ValueError: a value outside its range, no prunable leaf, a leaf that the support cannot
            mask; from ``update``, no parameters, or weights that are not finite when masks are
            chosen.
        TypeError: a schedule or support of another type.

    Source: arXiv 2106.12379.

    >>> import torch, gradtx as gx
    >>> phases = gx.sparsity.phases(("dense", 1), ("sparse", 2))
    >>> keep = gx.sparsity.magnitude_support(0.5, count="exact")
    >>> tx, p = gx.acdc(gx.sgd(0.5), phases, keep), {"w": torch.tensor([[3.0, 1.0]])}
    >>> state = tx.init(p)
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.ones(1, 2)}, state, p)
    ...     p = gx.apply_updates(p, updates)
    >>> p
    {'w': tensor([[2., 0.]])}
    """
    rule = magnitude_support(support) if isinstance(support, (int, float)) else support
    return Acdc(inner, schedule, rule, reset, prunable)


def _chosen(condition: Tensor, new: list[Any], old: list[Any]) -> list[Any]:
    """New masks where a condition holds."""
    return [
        b if isinstance(b, tuple) else torch.where(condition, a, b)
        for a, b in zip(new, old, strict=True)
    ]


def _shown(mask: Tensor | tuple[()]) -> Tensor | None:
    """A mask as trees of them have it."""
    return None if isinstance(mask, tuple) else mask


def _without_first_moments(node: Any) -> Any:
    """A leaf's state with zeros where first moments were."""
    inside = tree.children(node)
    if isinstance(node, Tensor) or not inside:
        return node
    own = roles(node)
    return tree.rebuild(
        node,
        [
            tree.zeros_like(x) if own.get(key) == FIRST else _without_first_moments(x)
            for key, x in inside
        ],
    )
