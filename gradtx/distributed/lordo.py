"""LoRDO: low-rank steps with infrequent synchronisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..codecs import Codec
from ..core.chain import chain
from ..core.hyper import Hyper
from ..core.leaves import LeafInfo
from ..core.predicates import is_chosen
from ..core.protocol import GradientTransformation
from ..core.quotient import as_gradients
from ..core.random import Seed
from ..subspace import OneSided, never, power_iteration, projection, quasi_hyperbolic, svd
from ..subspace.leaf import Where
from ..subspace.view import matrix_shape
from ..transforms import (
    add_decayed_weights,
    clip_by_global_norm,
    compress,
    first_moment,
    root_second_moment,
    scale,
    scale_by_learning_rate,
    undo_bias,
)
from ..transforms import (
    error_feedback as feed_back,
)
from .bases import first_bases, refresh_subspaces
from .local_steps import LocalSteps
from .moments import average_moments
from .outer import outer as outer_steps

TORCH_EPS = 1e-6  # what torch adds to the norm when it clips


@dataclass(frozen=True, repr=False)
class Larger:
    """Whether a leaf is a matrix whose smaller side is larger than a rank."""

    rank: int
    where: Where | None = None

    def __call__(self, info: LeafInfo) -> bool:
        large = info.ndim >= 2 and min(matrix_shape(info.shape)) > self.rank
        return large and (self.where is None or is_chosen("where", self.where, info))

    def __repr__(self) -> str:
        return f"larger_than({self.rank})"


def given_or(value: int | None, default: int) -> int:
    """A period that is given, or the default."""
    return default if value is None else value


def clipped(max_norm: float | None) -> tuple[GradientTransformation, ...]:
    """Clipping by the norm of all gradients, or nothing where the bound is None or not positive."""
    if max_norm is None or max_norm <= 0:
        return ()
    return (clip_by_global_norm(max_norm, TORCH_EPS),)


def moments(
    b1: float, b2: float, eps: float, debias: bool
) -> tuple[GradientTransformation, GradientTransformation]:
    """Adam's quotient: what is above the bar, and what is below it."""
    above = chain(first_moment(b1), undo_bias(b1)) if debias else first_moment(b1)
    return above, root_second_moment(b2, eps, debias=debias)


def lordo(
    lr: Hyper = 1e-3,
    rank: int = 128,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    omega: Hyper = 0.9,
    max_norm: float | None = 1.0,
    every: int = 32,
    every_first: int | None = None,
    every_second: int | None = None,
    error_feedback: bool = True,
    projection_type: str = "svd",
    rotate: bool = True,
    denominator: str | float = "mean",
    init: str = "grad_mean",
    debias: bool = True,
    weight_decay: Hyper = 0.0,
    bases: Mapping[str, Tensor] | None = None,
    seed: Seed = 0,
    error_codec: Codec | torch.dtype | None = None,
    anchor_dtype: torch.dtype | None = None,
    where: Where | None = None,
    outer: GradientTransformation | None = None,
) -> LocalSteps:
    """Low-rank Adam on every worker, in one subspace that all workers' drift chooses.

    a = g + E;  z = Q^T a;  E <- a - Q z;  m, v are Adam's moments of z;  d = sqrt(v') + eps;
    p <- (1 - lr weight_decay) p - lr ((1 - omega) g / mean(d) + omega Q (m' / d)). Every ``every``
    steps parameters are averaged, Q becomes the leading singular vectors of the mean drift, and
    moments turn with it. Without the gradient's own part no step would leave the first subspace.
    Leaves that are no matrices, or not larger than the rank, take quasi-hyperbolic Adam's step.

    Args:
        lr: learning rate >= 0, or a schedule.
        rank: vectors of the subspace, >= 1.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, > 0.
        omega: weight of the moments against the gradient, in [0, 1].
        max_norm: bound of a worker's gradient norm over all leaves; None or <= 0 does not clip.
        every: steps between averages of parameters, >= 1.
        every_first: steps between averages of first moments, >= 1; None is ``every``.
        every_second: the same of second moments.
        error_feedback: keep what the projection drops, E, and add it to the next gradient.
        projection_type: "svd", or "power" for one sweep of power iteration from the old basis.
        rotate: turn moments with the subspace.
        denominator: by what the gradient's own part is divided: "mean", "column", or a number > 0.
        init: where the first subspace comes from: "grad_mean", "random" or "given".
        debias: correct both moments for having started at zero.
        weight_decay: multiple of the parameter added to the step, >= 0.
        bases: leaf name -> first basis (smaller side, rank), for "given".
        seed: of "random".
        error_codec: how E is kept: a codec, a dtype, or None for float32.
        anchor_dtype: of the parameters that all share, see ``outer``.
        where: predicate on ``LeafInfo``, which matrices are projected; default all.
        outer: what makes of the mean drift the step of the common parameters, learning rate
            included, such as ``gx.sgd(1.0, 0.5, nesterov=True)``; None averages.

    Raises:
        ValueError: a value outside its range.
        TypeError: an ``outer`` that is no transform.

    Source: arXiv 2602.04396.

    >>> import torch, gradtx as gx
    >>> method = gx.distributed.lordo(0.1, rank=2, every=4)
    >>> state = method.init({"w": torch.zeros(8, 16)})
    >>> gx.tree.get(state.local, "mu").shape, method.due(4)
    (torch.Size([2, 16]), True)
    """
    if not eps > 0:
        raise ValueError(f"lordo: eps must be > 0, got {eps}")
    if projection_type not in ("svd", "power"):
        raise ValueError(
            f"lordo: projection_type must be 'svd' or 'power', got {projection_type!r}"
        )
    projector: OneSided = svd(rank, "std_left", matricize=True)
    if projection_type == "power":
        projector = power_iteration(rank, "std_left", matricize=True, signs="diagonal")
    larger = Larger(rank, where)
    kept = projection(projector, never(), larger)
    clip = clipped(max_norm)
    transform = chain(
        *clip,
        as_gradients(
            feed_back(kept, error_codec) if error_feedback else compress(kept),
            quasi_hyperbolic(*moments(b1, b2, eps, debias), omega, denominator, projector, larger),
        ),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
    corrections = (b1, b2) if debias else (None, None)
    meet = scale(-1.0) if outer is None else outer
    return LocalSteps(
        transform,
        (
            average_moments(given_or(every_first, every), given_or(every_second, every)),
            outer_steps(meet, every, anchor_dtype=anchor_dtype),
            refresh_subspaces(projector, every, rotate, *corrections),
        ),
        first_bases(projector, init, clip[0] if clip else None, seed, bases),
    )
