"""AC/DC: training that alternates between sparse and dense phases."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core import masks as masks_
from ..core import tree
from ..core.checks import can_read
from ..core.declared import Call, DeclaredTransform
from ..core.errors import TreeMismatchError
from ..core.execution import Events, Execution
from ..core.hyper import static
from ..core.leaves import LeafInfo, densify_leaf
from ..core.plain import plain
from ..core.predicates import is_chosen
from ..core.protocol import GradientTransformation, Wrapper
from ..core.state import advance, new_count
from ..core.tree import PyTree
from .bits import all_ones, as_matrix
from .keep import MaskState, Prunable, apply_masks, prunable_field, update_to_zero
from .moments import Forgotten, forget, masked_moments
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
    execution: ClassVar[Execution] = Execution(
        leaves_independent=lambda tx: not tx.schedule.has_events,
        cannot_raise=lambda tx: not tx.schedule.has_events,
        chooses=lambda tx: "prunable",
        matrix_view=lambda tx: as_matrix if tx.packed else None,
        events=Events(
            "step",
            lambda tx, count: tx.schedule.event(count) is not None,
            lambda tx, params, state: tx.begin(params, state),
            lambda tx: dataclasses.replace(tx, schedule=PhaseSchedule(())),
        ),
    )

    schedule: PhaseSchedule = static(PhaseSchedule(()))
    support: Support = static(magnitude_support(0.9))
    reset: Forgotten = static("first_moments")
    prunable: Prunable = prunable_field()
    packed: bool = static(True)
    mask_state: bool = static(False)

    @property
    def name(self) -> str:
        return "acdc"

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> AcdcState:
        masks = []
        for name, p in zip(names, leaves, strict=True):
            info = None if p is None else LeafInfo.of(p, name)
            if (
                info is None
                or not p.numel()
                or not is_chosen("acdc: prunable", self.prunable, info)
            ):
                masks.append(MaskState(()))
                continue
            self.support.check(name, info.shape)
            ones = torch.ones_like(p, dtype=torch.bool, requires_grad=False)
            masks.append(MaskState(all_ones(p) if self.packed else ones))
        inner = self.transform.init(spec.unflatten(leaves))
        return AcdcState(new_count(leaves), spec.unflatten(masks), inner)

    def _update(
        self, call: Call, state: AcdcState, values: dict[str, Any]
    ) -> tuple[PyTree, AcdcState]:
        kept = tree.flatten_like(self.name, call.spec, state.masks, "state")
        for name, u, s in zip(call.names, call.updates, kept, strict=True):
            if u is not None and not isinstance(s, MaskState):
                raise TreeMismatchError(f"acdc: leaf {name!r} has an update but no state")
        params = call.spec.unflatten(call.params)
        state = self.begin(params, state)
        masks = self._masks(call.params, call.spec, state)
        shown = call.spec.unflatten(masks)
        grads = apply_masks(call.spec.unflatten(call.updates), shown)
        extra = {**call.extra, "grads": grads}
        seen = apply_masks(params, shown)
        out, inner = self.update_transform(grads, state.inner_state, seen, extra)
        outs = tree.leaves_like(self.name, call.spec, out, "inner update")
        for i, (p, m) in enumerate(zip(call.params, masks, strict=True)):
            if outs[i] is not None:
                outs[i] = update_to_zero(densify_leaf(outs[i]), p, () if m is None else m)
        if self.mask_state:
            inner = masked_moments(inner, masks, call.spec)
        new = AcdcState(advance(state.step), state.masks, inner)
        return call.spec.unflatten(outs), new

    def project(self, params: PyTree, state: AcdcState) -> PyTree:
        """The parameters that the forward pass of the next step is to see.

        Those that the masks of that step keep, chosen anew where it prunes; others are zero.

        Args:
            params: tree of tensors.
            state: as of the last update, or of ``init``.
        """
        leaves, spec = tree.flatten(params)
        masks = self._masks(leaves, spec, self._with_masks(params, state))
        return apply_masks(params, spec.unflatten(masks))

    def begin(self, params: PyTree, state: AcdcState) -> AcdcState:
        """The state of the next step once its event, if there is one, has happened.

        Args:
            params: tree of tensors.
            state: as of the last update, or of ``init``.
        """
        if not self.schedule.has_events:
            return state
        _, restore = self.schedule.due(state.step)
        inner = forget(self.transform, state.inner_state, params, self.reset, restore)
        return self._with_masks(params, state)._replace(inner_state=inner)

    def _masks(self, params: list[Any], spec: Any, state: AcdcState) -> list[Any]:
        """Bool masks, None for leaves without."""
        kept = tree.flatten_like(self.name, spec, state.masks, "state")
        return [
            s.of(p) if isinstance(s, MaskState) and p is not None else None
            for s, p in zip(kept, params, strict=True)
        ]

    def _with_masks(self, params: PyTree, state: AcdcState) -> AcdcState:
        """The state with the masks of the next step."""
        prune, restore = self.schedule.due(state.step)
        read = can_read(prune)
        if read and not bool(prune | restore):
            return state
        leaves, spec = tree.flatten(params)
        old = self._masks(leaves, spec, state)
        new = old
        if not read or bool(prune):
            new = _chosen(prune, self._pruned(tree.names(spec), leaves, old), new)
        if not read or bool(restore):
            ones = [None if m is None else torch.ones_like(m) for m in old]
            new = _chosen(restore, ones, new)
        kept = tree.flatten_like(self.name, spec, state.masks, "state")
        states = [s if m is None else s.with_mask(m) for s, m in zip(kept, new, strict=True)]
        return state._replace(masks=spec.unflatten(states))

    def _pruned(self, names: list[str], params: list[Any], masks: list[Any]) -> list[Any]:
        there = [i for i, m in enumerate(masks) if m is not None]
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


def acdc(
    inner: GradientTransformation,
    schedule: PhaseSchedule,
    support: Support | float = 0.9,
    reset: Forgotten = "first_moments",
    prunable: Prunable = masks_.matrices,
    packed: bool = True,
    mask_state: bool = False,
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
        packed: keep masks as one bit an element, every row along the first dimension in bytes of
            its own; False for a byte each, which also fuses where ``inner`` keeps moments in
            blocks.
        mask_state: zero the first moments of masked weights after every step, too. With
            "first_moments" parameters stay the same; in sparse phases of a thousand steps the
            moments would otherwise become denormal numbers, with which processors are slow.

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
    support = plain(support)
    rule = magnitude_support(support) if isinstance(support, (int, float)) else support
    return Acdc(inner, schedule, rule, reset, prunable, packed, mask_state)


def _chosen(condition: Tensor, new: list[Any], old: list[Any]) -> list[Any]:
    """New masks where a condition holds."""
    return [
        None if b is None else torch.where(condition, a, b) for a, b in zip(new, old, strict=True)
    ]
