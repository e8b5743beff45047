"""Adadelta."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_adadelta
from ._assemble import assemble


def adadelta(
    lr: Hyper | None = 1.0,
    rho: Hyper = 0.9,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
) -> Chain:
    """Steps with the root mean square size of past steps.

    x = g' sqrt(e_x + eps) / sqrt(e_g + eps);  p <- p - lr x, with g' = g + weight_decay p and e_g,
    e_x the averages of g'^2 and x^2.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        rho: decay of both averages, in [0, 1].
        eps: added inside both roots.
        weight_decay: multiple of the parameter added to the gradient, >= 0.
        mask: which leaves decay; default all.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1212.5701.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adadelta(rho=0.75, eps=1.0), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 2.0)}, tx.init(params), params)[0]
    {'w': tensor([-1.4142])}
    """
    return assemble(
        scale_by_adadelta(rho, eps), lr=lr, weight_decay=weight_decay, mask=mask, decoupled=False
    )
