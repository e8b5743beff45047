"""Steps relative to the size of layers, without growth: Fromage."""

from __future__ import annotations

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..transforms import contracted_step, scale_by_trust_ratio


def fromage(lr: Hyper = 0.01, min_norm: Hyper = 1e-6) -> Chain:
    """Steps of a share of every leaf's norm, after which the leaf shrinks back.

    p <- (p - lr |p| / |g| g) / sqrt(1 + lr^2), per leaf, norms at least ``min_norm``.

    Args:
        lr: how far to go as a share of the norm, >= 0, or a schedule.
        min_norm: lower bound of the norms of parameters and gradients, >= 0.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2002.03432.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.fromage(0.75), {"w": torch.tensor([5.0, 0.0])}
    >>> tx.update({"w": torch.tensor([0.0, 2.0])}, tx.init(params), params)[0]
    {'w': tensor([-1., -3.])}
    """
    return chain(scale_by_trust_ratio(min_norm), contracted_step(lr))
