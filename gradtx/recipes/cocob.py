"""COCOB."""

from __future__ import annotations

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import add_decayed_weights, scale_by_cocob, scale_by_learning_rate


def cocob(
    lr: Hyper = 1.0,
    alpha: Hyper = 100.0,
    eps: float = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
) -> Chain:
    """Coin betting: no learning rate; see ``scale_by_cocob``.

    Args:
        lr: factor of the gradient >= 0, or a schedule.
        alpha: bounds the fraction that is bet, >= 0.
        eps: the largest gradient at the start, > 0.
        weight_decay: multiple of the parameter added to the gradient, >= 0.
        mask: which leaves decay; default all.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1705.07795.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.cocob(), {"w": torch.ones(1)}
    >>> grads = {"w": torch.full((1,), 3.0)}
    >>> tx.update(grads, tx.init(params), params)[0]
    {'w': tensor([-0.0100])}
    """
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(lr, flip_sign=False),
        scale_by_cocob(alpha, eps),
    )
