"""MARS with the moments of Adam."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import mars, scale_by_adam
from ._assemble import assemble


def mars_adamw(
    lr: Hyper | None = 3e-3,
    b1: Hyper = 0.95,
    b2: Hyper = 0.99,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    gamma: Hyper = 0.025,
    max_norm: Hyper = 1.0,
) -> Chain:
    """AdamW on variance-reduced gradients.

    p <- p - lr (adam(mars(g)) + weight_decay p), with ``gx.mars`` and ``gx.scale_by_adam``.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, also in the correction; in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        gamma: strength of the correction, >= 0.
        max_norm: largest norm of a leaf's corrected gradient, > 0.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2411.10438.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.mars_adamw(0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    members = mars(gamma, b1, max_norm), scale_by_adam(b1, b2, eps)
    return assemble(*members, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True)
