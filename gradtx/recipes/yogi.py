"""Yogi."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_yogi
from ._assemble import assemble


def yogi(
    lr: Hyper | None = 1e-2,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-3,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
) -> Chain:
    """Adam with a second moment that changes additively.

    v <- v - (1 - b2) sign(v - g^2) g^2;  p <- p - lr (m' / (sqrt(v') + eps) + weight_decay p).

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.

    Raises:
        ValueError: a value outside its interval.

    Source: Zaheer et al., Adaptive Methods for Nonconvex Optimization, NeurIPS 2018.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.yogi(0.5, eps=0.0), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    return assemble(
        scale_by_yogi(b1, b2, eps), lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True
    )
