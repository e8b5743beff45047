"""AdamW with D-Adaptation."""

from __future__ import annotations

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..transforms import scale_by_dadapt_adam


def dadapt_adamw(
    lr: Hyper = 1.0,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    d0: float = 1e-6,
    weight_decay: Hyper = 0.0,
) -> Chain:
    """AdamW that estimates its learning rate; see ``scale_by_dadapt_adam``.

    Args:
        lr: factor of the estimate >= 0, or a schedule.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in (0, 1).
        eps: added to the root.
        d0: estimate at the start, > 0.
        weight_decay: multiple of the parameter, >= 0.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2301.07733.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.dadapt_adamw(d0=0.5), {"w": torch.ones(1)}
    >>> grads = {"w": torch.full((1,), 3.0)}
    >>> tx.update(grads, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    return chain(scale_by_dadapt_adam(lr, b1, b2, eps, d0, weight_decay))
