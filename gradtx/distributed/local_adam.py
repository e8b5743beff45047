"""Adam on every worker, with averages of parameters and of moments at periods of their own."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.chain import chain
from ..core.hyper import Hyper
from ..core.parallel import parallel
from ..core.plain import plain
from ..core.quotient import quotient
from ..subspace import quasi_hyperbolic
from ..transforms import (
    add_decayed_weights,
    first_moment,
    root_second_moment,
    scale,
    scale_by_learning_rate,
    undo_bias,
)
from .local_steps import LocalSteps
from .lordo import clipped, given_or, moments
from .moments import average_moments
from .outer import outer


def desloc(
    lr: Hyper = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    omega: Hyper = 1.0,
    max_norm: float | None = 1.0,
    every: int = 32,
    every_first: int | None = None,
    every_second: int | None = None,
    debias: bool = False,
    weight_decay: Hyper = 0.0,
) -> LocalSteps:
    """DES-LOC: local Adam whose parameters and moments are averaged at periods of their own.

    p <- (1 - lr weight_decay) p - lr ((1 - omega) g + omega m) / (sqrt(v) + eps) on every worker,
    then the averages that are due. With all periods equal it is local Adam.

    Args:
        lr: learning rate >= 0, or a schedule.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        omega: weight of the moment against the gradient, in [0, 1].
        max_norm: bound of a worker's gradient norm; None or <= 0 does not clip.
        every: steps between averages of parameters, >= 1.
        every_first: steps between averages of first moments; None is three times ``every``.
        every_second: the same of second moments; None is six times ``every``.
        debias: correct both moments for having started at zero.
        weight_decay: multiple of the parameter added to the step, >= 0.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2505.22549.

    >>> import gradtx as gx
    >>> method = gx.distributed.desloc(every=2)
    >>> [step for step in range(1, 13) if method.syncs[0].due(step)]
    [6, 12]
    """
    above, below = moments(b1, b2, eps, debias)
    return LocalSteps(
        chain(
            *clipped(max_norm),
            quasi_hyperbolic(above, below, omega),
            add_decayed_weights(weight_decay),
            scale_by_learning_rate(lr),
        ),
        (
            average_moments(given_or(every_first, 3 * every), given_or(every_second, 6 * every)),
            outer(every=every),
        ),
    )


def mt_dao(
    lr: Hyper = 1e-3,
    betas: Sequence[float] = (0.9, 0.999),
    weights: Sequence[float] = (0.5, 0.45),
    b2: float = 0.999,
    eps: float = 1e-8,
    max_norm: float | None = 1.0,
    every: int = 32,
    every_first: int | Sequence[int] | None = None,
    every_second: int | None = None,
    debias: bool = True,
    weight_decay: Hyper = 0.0,
) -> LocalSteps:
    """MT-DAO: local Adam with fast and slow momenta.

    u = ((1 - sum w_i) g + sum w_i m_i) / (sqrt(v) + eps), m_i with decay beta_i. A decay of 0.9 has
    forgotten after 32 steps what workers agreed on when they met, one of 0.999 has not.

    Args:
        lr: learning rate >= 0, or a schedule.
        betas: decays of the momenta, in [0, 1).
        weights: of the momenta, >= 0 and at most 1 together; the gradient has the rest.
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        max_norm: bound of a worker's gradient norm; None or <= 0 does not clip.
        every: steps between averages of parameters, >= 1.
        every_first: steps between averages of momenta, one for each or one for all; None is
            ``every``.
        every_second: steps between averages of second moments; None is ``every``.
        debias: correct moments for having started at zero.
        weight_decay: multiple of the parameter added to the step, >= 0.

    Raises:
        ValueError: a value outside its range, or lists of different lengths.

    Source: arXiv 2510.05361.

    >>> import torch, gradtx as gx
    >>> method = gx.distributed.mt_dao(betas=(0.9, 0.999), every_first=(32, 128))
    >>> len(gx.tree.get_all(method.init({"w": torch.zeros(2)}).local, "mu"))
    2
    """
    betas, weights = tuple(betas), tuple(weights)
    if len(betas) != len(weights) or not betas:
        raise ValueError(f"mt_dao: give a weight for every beta, got {weights} for {betas}")
    if min(weights) < 0 or sum(weights) > 1 + 1e-9:
        raise ValueError(f"mt_dao: weights must be >= 0 and at most 1 together, got {weights}")
    periods = plain(every if every_first is None else every_first)
    if not isinstance(periods, int):
        periods = tuple(periods)
        if len(periods) != len(betas):
            raise ValueError(f"mt_dao: every_first has {len(periods)} periods for {betas}")
    momenta = [
        chain(first_moment(b), *([undo_bias(b)] if debias else []), scale(w))
        for b, w in zip(betas, weights, strict=True)
    ]
    mixed = parallel(scale(max(0.0, 1 - sum(weights))), *momenta)
    return LocalSteps(
        chain(
            *clipped(max_norm),
            quotient(mixed, root_second_moment(b2, eps, debias=debias)),
            add_decayed_weights(weight_decay),
            scale_by_learning_rate(lr),
        ),
        (average_moments(periods, given_or(every_second, every)), outer(every=every)),
    )
