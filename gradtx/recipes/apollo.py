"""APOLLO: the gradient itself, scaled as Adam would, which a random subspace tells."""

from __future__ import annotations

import math

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.plain import plain
from ..core.protocol import GradientTransformation
from ..core.quotient import quotient
from ..core.random import Seed
from ..core.select import masked
from ..subspace import Projector, Where, scale_by_low_rank_ratio, zero_based
from ..transforms import (
    first_moment,
    limit_norm_growth,
    root_second_moment,
    scale_by_bias_factor,
)
from ..transforms import scale as scale_by
from ._subspace import Projected, make_projector, subspace_tail


def apollo(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    rank: int | None = 256,
    update_proj_gap: int = 200,
    scale: float = 1.0,
    scale_type: str = "channel",
    proj: str | Projector = "random",
    proj_type: str = "std",
    correct_bias: bool = True,
    scale_front: bool = False,
    limit_growth: bool = True,
    on_refresh: str = "keep",
    matricize: bool = False,
    where: Where | None = None,
    seed: Seed = 0,
) -> Chain:
    """Scale the gradient of matrices by what Adam does to their coordinates in a random subspace.

    Z = Q^T G;  s = ||adam(Z)|| / ||Z|| per channel or tensor;  u = sqrt(scale) limit(s G), where
    norms may grow by 1 % a step;  p <- (1 - lr weight_decay) (p - lr c u) with both of Adam's bias
    corrections c. Other leaves take AdamW's step.

    Args:
        lr: learning rate >= 0, or a schedule.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: share of the parameter that is taken off after the step per unit of lr.
        rank: dimensions of the subspace, less where a matrix is smaller; None for AdamW.
        update_proj_gap: updates between two choices of the subspace, >= 1.
        scale: its root multiplies updates of projected leaves, >= 0.
        scale_type: one factor for every "channel", or for the "tensor".
        proj: "random" for normal numbers, "svd" or another kind, or a projector of ``gx.subspace``.
        proj_type: the compressed dimension: "std" the smaller one, "reverse_std", "left", "right",
            or "full" for both where ``proj`` is "svd".
        correct_bias: correct both moments for having started at zero.
        scale_front: scale before the limit instead of after it.
        limit_growth: False leaves out the limit.
        on_refresh: what becomes of the moments when the subspace changes: "keep" or "reset".
        matricize: take leaves with more than two dimensions as first against all others.
        where: predicate on ``LeafInfo``, which matrices are projected; default all.
        seed: of random subspaces.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2412.05270.

    >>> import torch, gradtx as gx
    >>> params = {"w": torch.zeros(64, 32)}
    >>> gx.tree.get(gx.apollo(rank=4).init(params), "mu").shape
    torch.Size([64, 4])
    """
    scale = plain(scale)
    if not isinstance(scale, (int, float)) or not 0 <= scale < math.inf:
        raise ValueError(f"apollo: scale must be in [0, inf), got {scale!r}")
    inner = quotient(first_moment(b1), root_second_moment(b2, eps, debias=False))
    members: list[GradientTransformation] = [inner]
    if rank is not None or isinstance(proj, Projector):
        projector = make_projector("apollo", proj, rank, proj_type, matricize, seed)
        chosen = Projected(projector, where)
        members = [
            scale_by_low_rank_ratio(
                projector,
                inner,
                zero_based(update_proj_gap),
                scale_type,
                on_refresh,
                where=where,
            )
        ]
        factor = [masked(scale_by(math.sqrt(scale)), chosen)] if scale != 1 else []
        limit = [masked(limit_norm_growth(), chosen)] if limit_growth else []
        members += [*factor, *limit] if scale_front else [*limit, *factor]
    if correct_bias:
        members.append(scale_by_bias_factor(b1, b2))
    return subspace_tail(*members, lr=lr, weight_decay=weight_decay)


def apollo_mini(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    update_proj_gap: int = 200,
    scale: float = 128.0,
    correct_bias: bool = True,
    scale_front: bool = False,
    limit_growth: bool = True,
    matricize: bool = False,
    where: Where | None = None,
    seed: Seed = 0,
) -> Chain:
    """APOLLO with one random direction and one factor for every matrix.

    State takes two numbers for every index of the larger dimension, and two more.

    Args:
        lr: learning rate >= 0, or a schedule.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: share of the parameter that is taken off after the step per unit of lr.
        update_proj_gap: updates between two choices of the direction, >= 1.
        scale: its root multiplies updates of projected leaves, >= 0.
        correct_bias: correct both moments for having started at zero.
        scale_front: scale before the limit instead of after it.
        limit_growth: False leaves out the limit on how fast norms grow.
        matricize: take leaves with more than two dimensions as first against all others.
        where: predicate on ``LeafInfo``, which matrices are projected; default all.
        seed: of the directions.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2412.05270.

    >>> import torch, gradtx as gx
    >>> params = {"w": torch.zeros(64, 32)}
    >>> gx.tree.get(gx.apollo_mini().init(params), "mu").shape
    torch.Size([64, 1])
    """
    return apollo(
        lr,
        b1,
        b2,
        eps,
        weight_decay,
        rank=1,
        update_proj_gap=update_proj_gap,
        scale=scale,
        scale_type="tensor",
        correct_bias=correct_bias,
        scale_front=scale_front,
        limit_growth=limit_growth,
        matricize=matricize,
        where=where,
        seed=seed,
    )
