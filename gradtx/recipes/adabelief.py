"""AdaBelief."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_belief
from ._assemble import assemble


def adabelief(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-16,
    eps_root: Hyper = 1e-16,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    nesterov: bool = False,
) -> Chain:
    """Adam with the second moment of the gradient's distance from its average.

    p <- p - lr (belief(g) + weight_decay p); the moments are those of ``scale_by_belief``.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        eps_root: added to the second moment at every update.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        nesterov: look one step ahead.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2010.07468.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adabelief(0.5, b1=0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-1.])}
    """
    moments = scale_by_belief(b1, b2, eps, eps_root, nesterov)
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True)
