"""Projection and its end as members of a chain, and transforms of what is between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from ..core import tree
from ..core.execution import Execution
from ..core.extra import without_trees
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import STRUCTURED, LeafInfo, LowRankUpdate, densify_leaf
from ..core.protocol import Wrapper
from ..core.transform import LeafTransform
from ..core.tree import PyTree
from . import leaf as leaf_
from .leaf import Where, Whole, is_projected
from .projector import Projector
from .refresh import Refresh, zero_based


class ProjectState(NamedTuple):
    """Attributes: ``subspace``, a ``SubspaceLeaf``, or ``Whole`` for leaves that stay."""

    subspace: Any


@dataclass(frozen=True)
class project_to_subspace(LeafTransform):
    """Replace matrices by their coordinates in a subspace, together with its basis.

    What goes on is a ``gx.LowRankUpdate`` with the factor Q^T u; the rest is dropped. Linear
    members such as ``gx.scale`` take it, ``gx.low_rank`` runs any transform on the factor, and
    ``gx.lift`` ends it. ``gx.in_subspace`` is all three at once, and carries moments along.

    Args:
        projector: what the subspace is, one of ``gx.subspace``, with one basis.
        refresh: when it is chosen anew, a policy of ``gx.subspace``.
        where: predicate on ``LeafInfo``, which matrices are projected; default all.

    Raises:
        TypeError: a projector or policy of another type.
        ValueError: at ``init``, a rank that is too large.

    Source: arXiv 2403.03507.

    >>> import torch, gradtx as gx
    >>> projector = gx.subspace.top_norm(1)
    >>> tx = gx.chain(gx.project_to_subspace(projector), gx.scale(2.0), gx.lift())
    >>> params = {"w": torch.tensor([[1.0, 2.0], [0.0, 1.0]])}
    >>> tx.update(params, tx.init(params))[0]
    {'w': tensor([[2., 4.],
            [0., 0.]])}
    """

    projector: Projector = static()
    refresh: Refresh = static(zero_based(200))
    where: Where | None = static(None)

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ProjectState:
        return ProjectState(leaf_.init(self.projector, self.refresh, self.where, p, info))

    def precompute(self, updates: list[Any], states: list[Any]) -> dict[str, list[Any]]:
        return {"turn": leaf_.turns_of(self.projector, self.refresh, states, updates)}

    def update_leaf(self, u: Tensor, s: Any, p: Any, h: Values) -> tuple[Any, Any]:
        if isinstance(s.subspace, Whole):
            return u, s
        turn = h.turn
        z = self.projector.project(turn.new.projector, u)
        update = self.projector.low_rank_update(turn.new.projector, z, tuple(u.shape))
        return update, ProjectState(turn.new)


@dataclass(frozen=True)
class lift(LeafTransform):
    """Coordinates in a subspace back as ordinary updates: ``scale Q z``.

    Args:
        scale: factor of projected leaves; others stay as they are.

    >>> import torch, gradtx as gx
    >>> z = gx.LowRankUpdate(torch.ones(2, 1), torch.tensor([[1.0], [0.0]]), (2, 2))
    >>> gx.lift(0.25).update({"w": z}, ())[0]
    {'w': tensor([[0.2500, 0.0000],
            [0.2500, 0.0000]])}
    """

    accepts: ClassVar[tuple[type, ...]] = (Tensor, *STRUCTURED)

    scale: Hyper = dynamic(1.0)

    def update_leaf(self, u: Any, s: Any, p: Any, h: Values) -> tuple[Any, Any]:
        if isinstance(u, LowRankUpdate):
            return h.scale * densify_leaf(u), s
        return densify_leaf(u), s


@dataclass(frozen=True)
class low_rank(Wrapper):
    """Run a transform on the factors of low-rank updates.

    After ``gx.project_to_subspace`` or inside ``gx.error_feedback`` with a
    ``gx.subspace.projection``. Moments in the transform keep their coordinates when the basis
    changes.

    Args:
        transform: sees factors where updates are of low rank, and other updates as they are.
        projector: the projector that makes them: it says how large factors are.
        where: the same predicate as there.

    Raises:
        TypeError: not a projector.

    >>> import torch, gradtx as gx
    >>> projector = gx.subspace.svd(2)
    >>> tx = gx.chain(
    ...     gx.project_to_subspace(projector), gx.low_rank(gx.trace(0.9), projector), gx.lift()
    ... )
    >>> tx.init({"w": torch.ones(8, 4)})["low_rank"]["w"].trace.shape
    torch.Size([8, 2])
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    projector: Projector
    where: Where | None = None

    def init(self, params: PyTree) -> PyTree:
        def low(name: str, p: Tensor) -> Tensor:
            info = LeafInfo.of(p, name)
            if not is_projected(self.projector, self.where, info):
                return p
            return p.new_zeros(self.projector.factor_shape(info.shape))

        return self.transform.init(tree.map_with_name(low, params))

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        factors = tree.map(lambda u: u.factor if isinstance(u, LowRankUpdate) else u, updates)
        if any(isinstance(u, LowRankUpdate) for u in tree.leaves(updates)):
            extra = without_trees(self, extra, updates)
        out, state = self.update_transform(factors, state, None, {**extra, "grads": factors})

        def joined(u: Any, new: Any) -> Any:
            if not isinstance(u, LowRankUpdate):
                return new
            return LowRankUpdate(densify_leaf(new), u.basis, u.shape, u.side)

        return tree.map(joined, updates, out), state
