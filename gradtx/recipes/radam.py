"""Rectified Adam."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_radam
from ._assemble import assemble


def radam(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    eps_root: Hyper = 0.0,
    threshold: Hyper = 5.0,
    nesterov: bool = False,
    raw_eps: bool = False,
    decoupled_weight_decay: bool = False,
) -> Chain:
    """Adam whose adaptivity starts once the second moment can be trusted.

    p <- p - lr radam(g + weight_decay p); the moments are those of ``scale_by_radam``.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: multiple of the parameter added to the gradient or update, >= 0.
        mask: which leaves decay; default all.
        eps_root: added inside the root.
        threshold: length of the average from which on the second moment is used, at least 4.
        nesterov: look one step ahead.
        raw_eps: add eps before the bias of the second moment is corrected, as torch.optim.
        decoupled_weight_decay: add the decay after the moments instead of to the gradient.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1908.03265.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.radam(0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-1.5000])}
    """
    moments = scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov, raw_eps)
    return assemble(
        moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=decoupled_weight_decay
    )
