"""MoMo and MoMo-Adam."""

from __future__ import annotations

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..transforms import scale_by_momo, scale_by_momo_adam


def momo(
    lr: Hyper = 1.0,
    beta: Hyper = 0.9,
    lower_bound: Hyper = 0.0,
    weight_decay: Hyper = 0.0,
    adapt_lower_bound: bool = False,
) -> Chain:
    """Momentum whose step size follows from the loss; see ``scale_by_momo``.

    Args:
        lr: largest step size >= 0, or a schedule.
        beta: decay of the averages, in [0, 1).
        lower_bound: a lower bound of the loss.
        weight_decay: strength of the decay, >= 0.
        adapt_lower_bound: raise the bound towards what the model of the loss shows.

    Raises:
        ValueError: a value outside its interval, or no ``value`` at ``update``.

    Source: arXiv 2305.07583.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.momo(), {"w": torch.ones(1)}
    >>> grads = {"w": torch.full((1,), 4.0)}
    >>> tx.update(grads, tx.init(params), params, value=torch.tensor(4.0))[0]
    {'w': tensor([-1.])}
    """
    return chain(scale_by_momo(lr, beta, lower_bound, weight_decay, adapt_lower_bound))


def momo_adam(
    lr: Hyper = 1e-2,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    lower_bound: Hyper = 0.0,
    weight_decay: Hyper = 0.0,
    adapt_lower_bound: bool = False,
) -> Chain:
    """Adam whose step size follows from the loss; see ``scale_by_momo_adam``.

    Args:
        lr: largest step size >= 0, or a schedule.
        b1: decay of the first moment and of the averages, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root, > 0.
        lower_bound: a lower bound of the loss.
        weight_decay: strength of the decay, >= 0.
        adapt_lower_bound: raise the bound towards what the model of the loss shows.

    Raises:
        ValueError: a value outside its interval, or no ``value`` at ``update``.

    Source: arXiv 2305.07583.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.momo_adam(), {"w": torch.ones(1)}
    >>> grads = {"w": torch.full((1,), 4.0)}
    >>> tx.update(grads, tx.init(params), params, value=torch.tensor(4.0))[0]
    {'w': tensor([-0.0100])}
    """
    moments = scale_by_momo_adam(lr, b1, b2, eps, lower_bound, weight_decay, adapt_lower_bound)
    return chain(moments)
