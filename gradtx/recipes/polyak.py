"""Gradient descent with Polyak's step size."""

from __future__ import annotations

from typing import Literal

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..transforms import scale_by_polyak
from ._learning_rate import with_learning_rate


def polyak_sgd(
    lr: Hyper | None = 1.0,
    max_step: Hyper = 1.0,
    f_min: Hyper = 0.0,
    eps: Hyper = 0.0,
    variant: Literal["sps", "sps+"] = "sps",
) -> Chain:
    """Gradient descent with the gap to the least loss over the squared norm as step size.

    p <- p - lr min((f - f_min) / (||g||^2 + eps), max_step) g.

    Args:
        lr: factor >= 0, a schedule, or None to leave it out.
        max_step: largest step size, >= 0.
        f_min: the least value of the loss.
        eps: added to the squared norm, >= 0.
        variant: "sps", or "sps+" for a gap that is not below zero.

    Raises:
        ValueError: a value outside its range, or no ``value`` at ``update``.

    Source: arXiv 2002.10542.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.polyak_sgd(), {"w": torch.ones(1)}
    >>> grads = {"w": torch.full((1,), 4.0)}
    >>> tx.update(grads, tx.init(params), params, value=torch.tensor(8.0))[0]
    {'w': tensor([-2.])}
    """
    return with_learning_rate(chain(scale_by_polyak(max_step, f_min, eps, variant)), lr)
