"""Gradient descent with noise."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.random import Seed
from ..core.select import Labels
from ..transforms import add_noise
from ._assemble import assemble


def noisy_sgd(
    lr: Hyper | None = 1e-3,
    eta: Hyper = 0.01,
    gamma: Hyper = 0.55,
    seed: Seed = 0,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
) -> Chain:
    """Gradient descent with Gaussian noise of shrinking variance.

    p <- p - lr (g + N(0, eta / t^gamma)), with g + weight_decay p for g.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        eta: variance of the first noise, >= 0.
        gamma: how fast the variance shrinks, >= 0.
        seed: an integer of at most 64 bits, or a 0-d integer tensor.
        weight_decay: multiple of the parameter added to the gradient, >= 0.
        mask: which leaves decay; default all.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1511.06807.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.noisy_sgd(0.5, eta=0.0), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-1.5000])}
    """
    moments = add_noise(eta, gamma, seed)
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=False)
