"""Run a whole transform on the coordinates of matrices in a subspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core import tree
from ..core.declared import Call, DeclaredTransform, like, with_fields_of
from ..core.errors import TreeMismatchError
from ..core.execution import Execution
from ..core.extra import without_trees
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaf_states import map_leaf_states
from ..core.leaves import LeafInfo, densify_leaf
from ..core.protocol import GradientTransformation, Wrapper, members
from ..core.roots import root
from ..core.sums import element_mean
from ..core.tree import PyTree
from . import leaf as leaf_
from .leaf import SubspaceLeaf, Turn, Where, Whole
from .one_sided import OneSided
from .projector import Projector
from .refresh import Refresh, zero_based
from .transport import POLICIES, check_rotation, reset, rotated


class InSubspaceState(NamedTuple):
    """State of ``in_subspace``.

    Attributes:
        leaves: the subspace of every projected leaf.
        inner_state: state of the inner transform, shaped like coordinates.
    """

    leaves: PyTree
    inner_state: PyTree


class Seen(NamedTuple):
    """A leaf while the inner transform is at work.

    Attributes:
        update: what came in.
        coordinates: of that.
        squares: its squared norms, see ``Scaling``.
        state: of the projector.
    """

    update: Tensor
    coordinates: Tensor
    squares: Tensor | None
    state: Any


@dataclass(frozen=True)
class InSubspace(DeclaredTransform, Wrapper):
    """A transform in a subspace; made by ``in_subspace``."""

    execution: ClassVar[Execution] = Execution(
        leaves_independent=True, low_rank_form=lambda tx: tx.low_rank_form()
    )
    given_as: ClassVar[str] = "inner"
    densifies: ClassVar[bool] = True

    projector: Projector = static()
    refresh: Refresh = static(zero_based(200))
    on_refresh: str = static("keep", choices=POLICIES)
    scale: Hyper = dynamic(1.0)
    where: Where | None = static(None)

    @property
    def name(self) -> str:
        return "in_subspace"

    @property
    def requires_params(self) -> bool:  # type: ignore[override]
        return any(getattr(m, "requires_params", False) for _, m in members(self.transform))

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> InSubspaceState:
        kept: list[Any] = [()] * len(leaves)
        low = list(leaves)
        for i, (p, name) in enumerate(zip(leaves, names, strict=True)):
            if p is None:
                continue
            info = LeafInfo.of(p, name)
            kept[i] = leaf_.init(self.projector, self.refresh, self.where, p, info)
            if isinstance(kept[i], SubspaceLeaf):
                self._check_leaf(info)
                low[i] = p.new_zeros(self.projector.factor_shape(info.shape))
        inner = self.transform.init(spec.unflatten(low))
        if self.on_refresh == "rotate":
            map_leaf_states(
                lambda i, s: (
                    check_rotation(self.name, names[i], s, tuple(low[i].shape))
                    if isinstance(kept[i], SubspaceLeaf)
                    else None
                ),
                inner,
                spec,
            )
        return InSubspaceState(spec.unflatten(kept), inner)

    def _update(
        self, call: Call, state: InSubspaceState, values: dict[str, Any]
    ) -> tuple[PyTree, InSubspaceState]:
        states = tree.flatten_like(self.name, call.spec, state.leaves, "state")
        low, params, projected = list(call.updates), list(call.params), []
        squares: list[Tensor | None] = [None] * len(low)
        for i, u in enumerate(call.updates):
            if u is None or isinstance(states[i], Whole):
                continue
            if not isinstance(states[i], SubspaceLeaf):
                raise TreeMismatchError(
                    f"{self.name}: leaf {call.names[i]!r} has an update but no state; "
                    "it was None when init was called"
                )
            projected.append(i)
        us, olds = [call.updates[i] for i in projected], [states[i] for i in projected]
        done = leaf_.turns(self.projector, self.refresh, olds, us)
        turns = dict(zip(projected, done, strict=True))
        wants_params = self.requires_params
        for i, turn in turns.items():
            low[i], squares[i] = self._projected(turn.new.projector, call.updates[i])
            if wants_params:
                params[i] = _stand_in(params[i], low[i])
        inner = self._carried(call, state.inner_state, states, turns, low)
        lowered = call.spec.unflatten(low)
        given = call.spec.unflatten(params) if wants_params else None
        known = call.extra
        if turns:
            known = without_trees(self, call.extra, call.spec.unflatten(call.updates))
        extra = {**known, "grads": lowered}
        out, inner = self.update_transform(lowered, inner, given, extra)
        outs = tree.leaves_like(self.name, call.spec, out, "inner update")
        for i, turn in turns.items():
            u, h = call.updates[i], Values(call.values_at(i, values))
            seen = Seen(u, low[i], squares[i], turn.new.projector)
            outs[i], states[i] = like(self._finished(seen, densify_leaf(outs[i]), h), u), turn.new
        return call.spec.unflatten(outs), InSubspaceState(call.spec.unflatten(states), inner)

    def _check_leaf(self, info: LeafInfo) -> None:
        """Raise where a projected leaf cannot be treated."""

    def _projected(self, state: Any, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """Coordinates of an update, and its squared norms where they are asked for."""
        return self.projector.project(state, u), None

    def _finished(self, seen: Seen, new: Tensor, h: Values) -> Any:
        """The update of a leaf from what became of its coordinates."""
        return h.scale * self.projector.back(seen.state, new, tuple(seen.update.shape))

    def low_rank_form(self) -> InSubspace:
        """The same transform for executors, whose updates are products where that is cheap."""
        multiplies = isinstance(self.projector, OneSided) and (
            type(self.projector).up is OneSided.up
        )
        if type(self) is not InSubspace or not multiplies:
            return self
        return with_fields_of(self, Products)

    def _carried(
        self,
        call: Call,
        inner: PyTree,
        states: list[Any],
        turns: dict[int, Turn],
        low: list[Any],
    ) -> PyTree:
        """The inner state where coordinates have moved."""
        turns = {i: turn for i, turn in turns.items() if turn.due is not False}
        if self.on_refresh == "keep" or not turns:
            return inner
        if self.on_refresh == "reset":
            start = self.transform.init(
                call.spec.unflatten([None if z is None else torch.zeros_like(z) for z in low])
            )
            fresh: dict[int, list[Any]] = {i: [] for i in turns}
            map_leaf_states(
                lambda i, s: fresh[i].append(s) if i in turns else None, start, call.spec
            )

        def carry(i: int, s: Any) -> Any:
            if i not in turns or s == ():
                return s
            if self.on_refresh == "reset":
                return reset(s, fresh[i].pop(0), turns[i].moved)
            old, new, shape = states[i].projector, turns[i].new.projector, call.updates[i].shape
            rotation = self.projector.rotation(old, new, tuple(shape), call.updates[i].dtype)
            return rotated(s, rotation, turns[i].moved)

        return map_leaf_states(carry, inner, call.spec)


@dataclass(frozen=True)
class Products(InSubspace):
    """Updates of projected leaves as ``LowRankUpdate``."""

    def _finished(self, seen: Seen, new: Tensor, h: Values) -> Any:
        shape = tuple(seen.update.shape)
        return self.projector.low_rank_update(seen.state, h.scale * new, shape)


def _stand_in(p: Tensor, z: Tensor) -> Tensor:
    """A constant with the root mean square of the parameter, shaped like its coordinates."""
    return root(element_mean(tree.accumulator(p).square()).to(z.dtype)).expand(z.shape)


def in_subspace(
    projector: Projector,
    inner: GradientTransformation,
    refresh: Refresh = zero_based(200),  # noqa: B008
    on_refresh: str = "keep",
    scale: Hyper = 1.0,
    where: Where | None = None,
) -> InSubspace:
    """Run ``inner`` on the coordinates of matrices in a subspace.

    Z = Q^T G goes into ``inner``, and what comes out goes back: update = scale Q inner(Z), whose
    state is as small as Z. What lies outside the subspace is dropped. Leaves that are no matrices
    go into ``inner`` as they are.

    Args:
        projector: what the subspace is, one of ``gx.subspace``.
        inner: the transform; in place of a projected parameter it gets a constant of the same root
            mean square, so that weight decay belongs outside.
        refresh: when the subspace is chosen anew, a policy of ``gx.subspace``.
        on_refresh: what becomes of the moments in ``inner`` then: they "keep" their coordinates,
            start from zero ("reset"; counters go on), or move along ("rotate": first moments by
            R = Q_new^T Q_old, second ones by its squares).
        scale: factor of projected leaves' updates.
        where: predicate on ``LeafInfo``, which matrices are projected; default all.

    Raises:
        ValueError: unknown ``on_refresh``; at ``init`` a rank that is too large, or a state that
            cannot be rotated.
        TypeError: a projector, policy or transform of another type.

    Source: arXiv 2403.03507.

    >>> import torch, gradtx as gx
    >>> tx = gx.in_subspace(gx.subspace.svd(2), gx.scale_by_adam())
    >>> state = tx.init({"w": torch.zeros(8, 4)})
    >>> state.inner_state["w"].mu.shape
    torch.Size([8, 2])
    >>> tx.update({"w": torch.randn(8, 4)}, state)[0]["w"].shape
    torch.Size([8, 4])
    """
    return InSubspace(inner, projector, refresh, on_refresh, scale, where)
