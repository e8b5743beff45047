"""What recipes in a subspace share: projectors by name, and the tail of their steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.leaves import LeafInfo
from ..core.predicates import is_chosen
from ..core.protocol import GradientTransformation
from ..core.random import Seed
from ..subspace import (
    OneSided,
    Projector,
    Where,
    dct,
    gaussian,
    power_iteration,
    qr_sketch,
    rademacher,
    randomized_svd,
    srdct,
    srht,
    svd,
    top_norm,
    two_sided,
    uniform,
)
from ..transforms import decay_after, scale_by_learning_rate

KINDS: Mapping[str, type[OneSided]] = {
    "svd": svd,
    "randomized_svd": randomized_svd,
    "svd_lowrank": randomized_svd,
    "power_iteration": power_iteration,
    "qr_sketch": qr_sketch,
    "random": gaussian,
    "gaussian": gaussian,
    "rademacher": rademacher,
    "uniform": uniform,
    "topk": top_norm,
    "dct": dct,
    "srht": srht,
    "srdct": srdct,
}


def make_projector(
    who: str, kind: str | Projector, rank: int | None, side: str, matricize: bool, seed: Seed = 0
) -> Projector:
    """A projector from its kind, or the one that was given.

    The rank is clipped to what a leaf allows; ``side`` may be "full" for both dimensions.

    Raises:
        ValueError: an unknown kind, or no rank.
    """
    if isinstance(kind, Projector):
        return kind
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f"{who}: the kind of subspace must be one of {tuple(KINDS)} or a projector of "
            f"gx.subspace, got {kind!r}"
        )
    if rank is None:
        raise ValueError(f"{who}: a subspace needs a rank")
    options: dict[str, Any] = {"clip_rank": True, "matricize": matricize}
    if hasattr(KINDS[kind], "seed"):
        options["seed"] = seed
    if side == "full":
        if not KINDS[kind].orthonormal:
            raise ValueError(f"{who}: side 'full' needs an orthonormal basis, {kind!r} has none")
        return two_sided(KINDS[kind](rank, **options))
    return KINDS[kind](rank, side, **options)


def subspace_tail(*members: GradientTransformation, lr: Hyper, weight_decay: Hyper) -> Chain:
    """The learning rate, and decay of what the step has reached."""
    return chain(*members, scale_by_learning_rate(lr), decay_after(lr, weight_decay))


@dataclass(frozen=True, repr=False)
class Projected:
    """Whether a leaf is one that a projector compresses."""

    projector: Projector
    where: Where | None = None

    def __call__(self, info: LeafInfo) -> bool:
        return self.projector.takes(info.shape) and (
            self.where is None or is_chosen("where", self.where, info)
        )

    def __repr__(self) -> str:
        return f"projected_by({self.projector!r})"
