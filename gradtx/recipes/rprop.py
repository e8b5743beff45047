"""Rprop."""

from __future__ import annotations

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..transforms import scale, scale_by_rprop


def rprop(
    lr: Hyper = 1e-2,
    eta_minus: Hyper = 0.5,
    eta_plus: Hyper = 1.2,
    min_step_size: Hyper = 1e-6,
    max_step_size: Hyper = 50.0,
) -> Chain:
    """Steps steered by the signs of gradients alone.

    p <- p - s sign(g); s grows by eta_plus while the sign of an entry lasts, and shrinks by
    eta_minus when it changes, the entry then staying where it is.

    Args:
        lr: size of the first step, > 0.
        eta_minus: factor at a change of sign, in (0, 1).
        eta_plus: factor while the sign lasts, > 1.
        min_step_size: smallest step.
        max_step_size: largest step.

    Raises:
        ValueError: a value outside its interval.

    Source: Riedmiller and Braun, ICNN 1993.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.rprop(0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    rule = scale_by_rprop(lr, eta_minus, eta_plus, min_step_size, max_step_size)
    return chain(rule, scale(-1.0))
