"""Adam with the infinity norm."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_adamax
from ._assemble import assemble


def adamax(
    lr: Hyper | None = 2e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    decoupled_weight_decay: bool = False,
) -> Chain:
    """Adam with the infinity norm in place of the second moment.

    v <- max(b2 v, |g'| + eps);  p <- p - lr m / ((1 - b1^t) v), with g' = g + weight_decay p.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the maximum, in [0, 1).
        eps: added to the absolute gradient.
        weight_decay: multiple of the parameter added to the gradient or update, >= 0.
        mask: which leaves decay; default all.
        decoupled_weight_decay: add the decay after the moments instead of to the gradient.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1412.6980, section 7.1.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adamax(0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    moments = scale_by_adamax(b1, b2, eps)
    return assemble(
        moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=decoupled_weight_decay
    )


def adamaxw(
    lr: Hyper | None = 2e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 1e-4,
    mask: Labels | None = None,
) -> Chain:
    """Adam with the infinity norm and decoupled weight decay.

    p <- p - lr (adamax(g) + weight_decay p); as ``adamax`` otherwise.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the maximum, in [0, 1).
        eps: added to the absolute gradient.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1412.6980, section 7.1; arXiv 1711.05101.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adamaxw(0.5, weight_decay=0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.7500])}
    """
    return adamax(lr, b1, b2, eps, weight_decay, mask, decoupled_weight_decay=True)
