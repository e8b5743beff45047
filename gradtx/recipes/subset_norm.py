"""Second moments per subset of entries, momentum in a subspace, and both together."""

from __future__ import annotations

from typing import Any

from ..core.chain import Chain, chain
from ..core.functions import identity
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..core.quotient import quotient
from ..core.random import Seed
from ..subspace import Projector, Where, one_based, subspace_momentum
from ..transforms import (
    first_moment,
    root_subset_norm,
    scale_by_bias_factor,
    scale_by_subset_norm,
    undo_bias,
)
from ._assemble import is_off
from ._subspace import make_projector, subspace_tail

Subset = int | str | None


def snsm(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    momentum: str | None = "ema",
    second_moment: str | None = "ema",
    subset: Subset = None,
    rank: int | None = None,
    update_proj_gap: int | None = None,
    proj_type: str | Projector = "svd",
    on_refresh: str = "reset",
    correct_bias: bool = True,
    parity: bool = False,
    matricize: bool = False,
    where: Where | None = None,
    seed: Seed = 0,
) -> Chain:
    """Any first moment over any second one: the family of subset norm and subspace momentum.

    n = g, m or subspace momentum;  d = root_subset_norm(g);  p <- (1 - lr weight_decay)
    (p - lr n / d), both moments corrected for having started at zero.

    Args:
        lr: learning rate >= 0, or a schedule.
        b1: decay of the first moment, in [0, 1); 0 leaves it out.
        b2: decay of the second moment, in [0, 1]; 1 sums up, 0 leaves it out.
        eps: added to the root of the second moment before its correction.
        weight_decay: share of the parameter that is taken off after the step per unit of lr.
        momentum: "ema" for the average of all of g, "sm" for ``gx.subspace_momentum``, or None.
        second_moment: "sn" for one number per subset, "ema" for one per entry, or None.
        subset: which entries share with "sn", see ``gx.root_subset_norm``.
        rank: dimensions of the subspace with "sm", less where a matrix is smaller.
        update_proj_gap: updates between two choices of it, >= 1.
        proj_type: "svd", "uniform", "topk", "srht" or another kind, or a projector.
        on_refresh: what becomes of the momentum then: "reset", "keep", "rotate" or "stale".
        correct_bias: correct the moments.
        parity: correct by both decays, also for a moment that is left out, as the published
            implementation does.
        matricize: take leaves with more than two dimensions as first against all others.
        where: predicate on ``LeafInfo``, which matrices have momentum in a subspace.
        seed: of random subspaces.

    Raises:
        ValueError: a value outside its range, an unknown name, "sm" without rank and gap, or rank
            or subset without what they are for.

    Source: arXiv 2411.07120.

    >>> import torch, gradtx as gx
    >>> tx = gx.snsm(0.1, second_moment="sn", subset="heuristics")
    >>> params = {"w": torch.zeros(8, 4)}
    >>> gx.tree.get(tx.init(params), "nu").shape
    torch.Size([8, 1])
    """
    for name, value, known in (
        ("momentum", momentum, ("ema", "sm", None)),
        ("second_moment", second_moment, ("sn", "ema", None)),
    ):
        if value not in known:
            raise ValueError(f"snsm: {name} must be one of {known}, got {value!r}")
    if second_moment != "sn" and subset is not None:
        raise ValueError("snsm: subset needs second_moment='sn'")
    known_rank = rank is not None or isinstance(proj_type, Projector)
    if momentum == "sm" and (not known_rank or update_proj_gap is None):
        raise ValueError("snsm: momentum='sm' needs rank and update_proj_gap")
    if momentum != "sm" and (rank is not None or update_proj_gap is not None):
        raise ValueError("snsm: rank and update_proj_gap need momentum='sm'")
    corrected = correct_bias and not parity
    numerator: GradientTransformation = identity()
    if momentum is not None and not is_off(b1):
        if momentum == "ema":
            numerator = first_moment(b1)
        else:
            assert update_proj_gap is not None
            numerator = subspace_momentum(
                _projector(proj_type, rank, matricize, seed),
                b1,
                one_based(update_proj_gap),
                on_refresh,
                where=where,
            )
        numerator = chain(numerator, undo_bias(b1)) if corrected else numerator
    step = numerator
    if second_moment is not None and not is_off(b2):
        second: tuple[Any, ...] = (subset, b2, eps, corrected)
        step = quotient(numerator, root_subset_norm(*second))
        if isinstance(numerator, identity):
            step = scale_by_subset_norm(*second)
    after = (scale_by_bias_factor(b1, b2),) if correct_bias and parity else ()
    return subspace_tail(step, *after, lr=lr, weight_decay=weight_decay)


def _projector(kind: str | Projector, rank: int | None, matricize: bool, seed: Seed) -> Projector:
    side = "larger" if kind in ("uniform", "topk") else "std"
    return make_projector("snsm", kind, rank, side, matricize, seed)


def adamw_sn(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    subset: Subset = -2,
    correct_bias: bool = True,
) -> Chain:
    """AdamW with one second moment per subset of entries.

    Steps are smaller than AdamW's by the root of the subset's size: use about ten times its
    learning rate.

    Args:
        lr: learning rate >= 0, or a schedule.
        b1: decay of the first moment, in [0, 1); 0 leaves it out.
        b2: decay of the second moment, in [0, 1]; 1 sums up.
        eps: added to the root of the second moment before its correction.
        weight_decay: share of the parameter that is taken off after the step per unit of lr.
        subset: which entries share, see ``gx.root_subset_norm``.
        correct_bias: correct both moments for having started at zero.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2411.07120.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adamw_sn(0.1, subset="heuristics"), {"w": torch.zeros(2, 2)}
    >>> tx.update({"w": torch.tensor([[3.0, 4.0]] * 2)}, tx.init(params), params)[0]
    {'w': tensor([[-0.0600, -0.0800],
            [-0.0600, -0.0800]])}
    """
    return snsm(
        lr, b1, b2, eps, weight_decay, "ema", "sn", subset=subset, correct_bias=correct_bias
    )


def rmsprop_sn(
    lr: Hyper = 1e-2,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    subset: Subset = "heuristics",
) -> Chain:
    """RMSprop with one second moment per subset of entries; no momentum, no correction.

    Args:
        lr: learning rate >= 0, or a schedule.
        b2: decay of the second moment, in [0, 1].
        eps: added to the root of the second moment.
        weight_decay: share of the parameter that is taken off after the step per unit of lr.
        subset: which entries share, see ``gx.root_subset_norm``.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2411.07120.

    >>> import torch, gradtx as gx
    >>> gx.codecs.nbytes(gx.rmsprop_sn().init({"w": torch.zeros(64, 32)}))
    256
    """
    return snsm(lr, 0.0, b2, eps, weight_decay, None, "sn", subset=subset, correct_bias=False)


def adagrad_sn(
    lr: Hyper = 0.5,
    b1: Hyper = 0.9,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    subset: Subset = "heuristics",
) -> Chain:
    """AdaGrad with one sum of squares per subset of entries, and momentum.

    Args:
        lr: learning rate >= 0, or a schedule.
        b1: decay of the first moment, in [0, 1); 0 leaves it out.
        eps: added to the root of the sum.
        weight_decay: share of the parameter that is taken off after the step per unit of lr.
        subset: which entries share, see ``gx.root_subset_norm``.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2411.07120.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adagrad_sn(1.0, b1=0.0), {"w": torch.zeros(2, 2)}
    >>> tx.update({"w": torch.tensor([[3.0, 4.0]] * 2)}, tx.init(params), params)[0]
    {'w': tensor([[-0.6000, -0.8000],
            [-0.6000, -0.8000]])}
    """
    return snsm(lr, b1, 1.0, eps, weight_decay, "ema", "sn", subset=subset, correct_bias=False)


def adam_snsm(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    rank: int = 128,
    update_proj_gap: int = 200,
    subset: Subset = "heuristics",
    proj_type: str | Projector = "svd",
    on_refresh: str = "reset",
    correct_bias: bool = True,
    matricize: bool = False,
    where: Where | None = None,
    seed: Seed = 0,
) -> Chain:
    """Momentum in a subspace over one second moment per subset of entries.

    Args:
        lr: learning rate >= 0, or a schedule.
        b1: decay of the momentum, in [0, 1).
        b2: decay of the second moment, in [0, 1]; 1 sums up.
        eps: added to the root of the second moment before its correction.
        weight_decay: share of the parameter that is taken off after the step per unit of lr.
        rank: dimensions of the subspace, less where a matrix is smaller.
        update_proj_gap: updates between two choices of it, >= 1.
        subset: which entries share a second moment, see ``gx.root_subset_norm``.
        proj_type: "svd", "uniform", "topk", "srht" or another kind, or a projector.
        on_refresh: what becomes of the momentum then: "reset", "keep", "rotate" or "stale".
        correct_bias: correct both moments for having started at zero.
        matricize: take leaves with more than two dimensions as first against all others.
        where: predicate on ``LeafInfo``, which matrices have momentum in a subspace.
        seed: of random subspaces.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2411.07120.

    >>> import torch, gradtx as gx
    >>> state = gx.adam_snsm(rank=4, proj_type="uniform").init({"w": torch.zeros(64, 32)})
    >>> gx.tree.get(state, "mu").shape, gx.tree.get(state, "nu").shape
    (torch.Size([4, 32]), torch.Size([64, 1]))
    """
    return snsm(
        lr,
        b1,
        b2,
        eps,
        weight_decay,
        "sm",
        "sn",
        subset,
        rank,
        update_proj_gap,
        proj_type,
        on_refresh,
        correct_bias,
        matricize=matricize,
        where=where,
        seed=seed,
    )
