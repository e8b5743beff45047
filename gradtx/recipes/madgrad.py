"""MADGRAD."""

from __future__ import annotations

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import add_decayed_weights, scale_by_madgrad


def madgrad(
    lr: Hyper = 1e-2,
    momentum: Hyper = 0.9,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
) -> Chain:
    """Dual averaging over the cube root of summed squares; see ``scale_by_madgrad``.

    Args:
        lr: learning rate >= 0, or a schedule.
        momentum: how much of the old parameters stays, in [0, 1).
        eps: added to the cube root and to the learning rate.
        weight_decay: multiple of the parameter added to the gradient, >= 0.
        mask: which leaves decay; default all.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2101.11075.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.madgrad(1.0, momentum=0.0), {"w": torch.ones(1)}
    >>> grads = {"w": torch.full((1,), 8.0)}
    >>> tx.update(grads, tx.init(params), params)[0]
    {'w': tensor([-2.0000])}
    """
    moments = scale_by_madgrad(lr, momentum, eps)
    return chain(add_decayed_weights(weight_decay, mask), moments)
