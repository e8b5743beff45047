"""How much an optimizer scales a gradient, estimated in a subspace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from ..core.declared import with_fields_of
from ..core.execution import Execution, Factored
from ..core.hyper import Hyper, Values, dynamic, is_scheduled, static
from ..core.leaves import LeafInfo
from ..core.protocol import GradientTransformation
from ..core.tree import PyTree
from ..ops.basis import axis_of
from .in_subspace import InSubspace, Seen
from .leaf import SubspaceLeaf, Where
from .norm_ratio import NormRatio, norm_ratio
from .one_sided import OneSided
from .projector import Projector
from .refresh import Refresh, zero_based
from .view import matrix_shape

_GRANULARITIES = ("channel", "tensor")


@dataclass(frozen=True)
class Scaling:
    """What a gradient is multiplied with, in place of its update; executors alone ask for it.

    Attributes:
        factor: a number, or one a row or a column of a matrix.
        squares: squared norms of the gradient's rows or columns in float64, or None.
    """

    factor: Tensor
    squares: Tensor | None

    def contiguous(self) -> Scaling:
        """With a factor that is."""
        return Scaling(self.factor.contiguous(), self.squares)


@dataclass(frozen=True)
class LowRankRatio(InSubspace):
    """A transform that only says how long updates are; made by ``scale_by_low_rank_ratio``."""

    execution: ClassVar[Execution] = Execution(
        factored=Factored(
            lambda tx, shape, subspace: tx.factor_form(shape, subspace),
            lambda tx, gradient: tx.squares_form(gradient),
            lambda tx: tx.factors(),
        )
    )

    granularity: str = static("channel", choices=_GRANULARITIES)
    norm_eps: Hyper = dynamic(1e-8, within="[0, inf)")

    @property
    def name(self) -> str:
        return "scale_by_low_rank_ratio"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.granularity == "channel" and not isinstance(self.projector, OneSided):
            raise ValueError(f"{self.name}: channels need a projector with one side")

    def _check_leaf(self, info: LeafInfo) -> None:
        if self.granularity == "tensor" or not isinstance(self.projector, OneSided):
            return
        view = self.projector.view(info.shape, info.name)
        if view.axis != axis_of("std", view.rows, view.columns) and view.rows != view.columns:
            raise ValueError(
                f"{self.name}: leaf {info.name!r} of shape {info.shape} has its channels along the "
                f"larger dimension, which side {self.projector.side!r} compresses; use 'std', or "
                "granularity='tensor'"
            )

    def _finished(self, seen: Seen, new: Tensor, h: Values) -> Any:
        u, axis = seen.update, None
        if self.granularity == "channel" and isinstance(self.projector, OneSided):
            axis = self.projector.view(u.shape).axis
        factor = norm_ratio(new, seen.coordinates, axis, h)
        matrix = u.reshape(matrix_shape(tuple(u.shape))) if factor.ndim else u
        return (matrix * factor).reshape(u.shape)

    def factor_form(self, shape: tuple[int, ...], subspace: Any) -> str | None:
        """What ``factors`` gives for a leaf: "row", "column" or "scalar"; None: its update.

        Args:
            shape: of the leaf.
            subspace: its entry of ``InSubspaceState.leaves``.
        """
        if not isinstance(subspace, SubspaceLeaf) or len(shape) != 2 or 1 in shape:
            return None
        if is_scheduled(self) or self.requires_params:
            return None
        if self.granularity == "tensor" or not isinstance(self.projector, OneSided):
            return "scalar"
        return "row" if self.projector.view(shape).axis == 1 else "column"

    def squares_form(self, g: Tensor) -> str | None:
        """Of what ``factors`` gives squared norms: "row" or "column" of a gradient, or None.

        They cost next to nothing where a kernel takes them while it projects.
        """
        projector = self.projector
        if not isinstance(projector, OneSided) or not projector.measures(g):
            return None
        return "row" if projector.view(tuple(g.shape)).axis == 1 else "column"

    def factors(self) -> Factors:
        """The same transform without the multiplication, for executors."""
        side = None
        if self.granularity == "channel" and isinstance(self.projector, OneSided):
            side = self.projector.side
        ratio = NormRatio(self.transform, side, self.scale, self.norm_eps)
        return replace(with_fields_of(self, Factors), transform=ratio)


@dataclass(frozen=True)
class Factors(LowRankRatio):
    """What leaves are multiplied with, all of which are projected; ``transform`` tells."""

    def update_transform(
        self, updates: PyTree, state: PyTree, params: PyTree, extra: Mapping[str, Any]
    ) -> tuple[PyTree, PyTree]:
        # It has this one's hyperparameters, and hands on those of the transform that it wraps.
        return self.transform.update(updates, state, params, **extra)

    def _projected(self, state: Any, u: Tensor) -> tuple[Tensor, Tensor | None]:
        if isinstance(self.projector, OneSided) and self.projector.measures(u):
            return self.projector.project_measured(state, u)
        return super()._projected(state, u)

    def _finished(self, seen: Seen, new: Tensor, h: Values) -> Any:
        return Scaling(new.to(seen.update.dtype), seen.squares)


def scale_by_low_rank_ratio(
    projector: Projector,
    inner: GradientTransformation,
    refresh: Refresh = zero_based(200),  # noqa: B008
    granularity: str = "channel",
    on_refresh: str = "keep",
    scale: Hyper = 1.0,
    norm_eps: Hyper = 1e-8,
    where: Where | None = None,
) -> LowRankRatio:
    """Scale matrices by how much ``inner`` scales their coordinates in a subspace.

    Z = Q^T G;  update = scale G ||inner(Z)|| / (||Z|| + norm_eps), with norms over the compressed
    dimension, which gives one factor for every index of the other, or over everything. Leaves that
    are no matrices go through ``inner``.

    Args:
        projector: what the subspace is, one of ``gx.subspace``; random ones do.
        inner: the transform that says how long updates are.
        refresh: when the subspace is chosen anew, a policy of ``gx.subspace``.
        granularity: a factor for every "channel", an index of the larger dimension, or one for the
            "tensor".
        on_refresh: what becomes of the moments in ``inner`` then: "keep", "reset" or "rotate".
        scale: factor of projected leaves' updates.
        norm_eps: added to the norm of the coordinates, >= 0.
        where: predicate on ``LeafInfo``, which matrices are projected; default all.

    Raises:
        ValueError: an unknown name; channels with a projector that compresses the larger dimension;
            at ``init`` a rank that is too large.
        TypeError: a projector, policy or transform of another type.

    Source: arXiv 2412.05270.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_low_rank_ratio(gx.subspace.gaussian(1), gx.scale(2.0))
    >>> g = {"w": torch.tensor([[3.0, 4.0], [5.0, 6.0]])}
    >>> tx.update(g, tx.init(g))[0]["w"].round(decimals=4)
    tensor([[ 6.,  8.],
            [10., 12.]])
    """
    return LowRankRatio(inner, projector, refresh, on_refresh, scale, where, granularity, norm_eps)
