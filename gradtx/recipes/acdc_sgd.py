"""Gradient descent that alternates between sparse and dense phases."""

from __future__ import annotations

from typing import Literal

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..sparsity import PhaseSchedule, Support, acdc
from .sgd import sgd

_NEVER = PhaseSchedule(())


def acdc_sgd(
    lr: Hyper = 1e-3,
    schedule: PhaseSchedule = _NEVER,
    support: Support | float = 0.9,
    momentum: Hyper | None = 0.9,
    nesterov: bool = False,
    weight_decay: Hyper = 0.0,
    reset: Literal["first_moments", "all", "nothing"] = "first_moments",
    sparse: bool = True,
) -> Chain:
    """AC/DC as published: ``gx.acdc`` around gradient descent with momentum.

    Leaves with two dimensions or more have masks. Around another optimizer:
    ``gx.acdc(gx.adamw(1e-3), schedule, 0.9)``.

    Args:
        lr: learning rate >= 0, or a schedule.
        schedule: when masks change, such as ``gx.sparsity.phases(("dense", 5), ("sparse", 5))``;
            the default never prunes.
        support: the rule for masks, or the sparsity in [0, 1) of ``magnitude_support``, which
            keeps one entry fewer, as published.
        momentum: decay of the sum of gradients, in [0, 1]; None or 0 keeps no sum.
        nesterov: look one step ahead; needs momentum.
        weight_decay: multiple of the parameter added to the gradient of every leaf, >= 0.
        reset: at a restore, zero the "first_moments", start "all" state anew, or "nothing".
        sparse: False for gradient descent alone.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2106.12379.

    >>> import torch, gradtx as gx
    >>> schedule = gx.sparsity.phases(("dense", 10), ("sparse", 10))
    >>> list(gx.acdc_sgd(0.1, schedule).inner)
    ['acdc']
    """
    inner = sgd(lr, momentum, nesterov, weight_decay)
    return chain(acdc(inner, schedule, support, reset)) if sparse else inner
