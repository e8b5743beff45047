"""Adam with Nesterov momentum."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..core.select import Labels
from ..transforms import scale_by_adam, scale_by_nadam
from ._assemble import assemble


def nadam(
    lr: Hyper | None = 2e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    momentum_decay: Hyper | None = None,
    decoupled_weight_decay: bool = False,
) -> Chain:
    """Adam with Nesterov momentum.

    p <- p - lr nadam(g + weight_decay p); constant momentum (``scale_by_adam(nesterov=True)``), or
    momentum that grows from b1 / 2 (``scale_by_nadam``).

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: multiple of the parameter added to the gradient or update, >= 0.
        mask: which leaves decay; default all.
        momentum_decay: speed of that growth, >= 0, 4e-3 in torch.optim; None for constant
            momentum.
        decoupled_weight_decay: add the decay after the moments instead of to the gradient.

    Raises:
        ValueError: a value outside its interval.

    Source: Dozat, Incorporating Nesterov Momentum into Adam, ICLR workshop 2016.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.nadam(0.5, momentum_decay=4e-3), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5282])}
    """
    moments: GradientTransformation
    if momentum_decay is None:
        moments = scale_by_adam(b1, b2, eps, nesterov=True)
    else:
        moments = scale_by_nadam(b1, b2, eps, momentum_decay)
    return assemble(
        moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=decoupled_weight_decay
    )


def nadamw(
    lr: Hyper | None = 2e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 1e-4,
    mask: Labels | None = None,
    momentum_decay: Hyper | None = None,
) -> Chain:
    """Adam with Nesterov momentum and decoupled weight decay.

    p <- p - lr (nadam(g) + weight_decay p); as ``nadam`` otherwise.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        momentum_decay: as in ``nadam``.

    Raises:
        ValueError: a value outside its interval.

    Source: Dozat, ICLR workshop 2016; arXiv 1711.05101.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.nadamw(0.5, weight_decay=0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.9868])}
    """
    return nadam(lr, b1, b2, eps, weight_decay, mask, momentum_decay, decoupled_weight_decay=True)
