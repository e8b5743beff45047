"""Sophia and AdaHessian: steps over a diagonal of the Hessian."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_adahessian, scale_by_sophia
from ._assemble import assemble


def sophia(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.965,
    b2: Hyper = 0.99,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 1e-4,
    mask: Labels | None = None,
    gamma: Hyper = 0.01,
    clip_threshold: Hyper = 1.0,
) -> Chain:
    """Momentum over a mean diagonal of the Hessian, clipped; see ``scale_by_sophia``.

    Pass ``hessian``, such as what ``gx.meta.hutchinson`` gives, in every tenth call or so.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the mean, in [0, 1).
        b2: decay of the diagonal, in [0, 1).
        eps: least denominator, > 0.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        gamma: factor of the diagonal, > 0.
        clip_threshold: largest entry of an update, > 0.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2305.14342.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.sophia(0.5), {"w": torch.ones(1)}
    >>> grads = {"w": torch.full((1,), 3.0)}
    >>> tx.update(grads, tx.init(params), params, hessian=grads)[0]
    {'w': tensor([-0.5001])}
    """
    moments = scale_by_sophia(b1, b2, eps, gamma, clip_threshold)
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True)


def adahessian(
    lr: Hyper | None = 0.1,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-4,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    power: Hyper = 1.0,
) -> Chain:
    """Adam with a squared diagonal of the Hessian as second moment; see ``scale_by_adahessian``.

    Every call needs ``hessian``, such as what ``gx.meta.hutchinson`` gives.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root, > 0.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        power: exponent of the diagonal's size, in [0, 1].

    Raises:
        ValueError: a value outside its interval, or no ``hessian`` at ``update``.

    Source: arXiv 2006.00719.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adahessian(0.5), {"w": torch.ones(1)}
    >>> grads = {"w": torch.full((1,), 3.0)}
    >>> tx.update(grads, tx.init(params), params, hessian=grads)[0]
    {'w': tensor([-0.5000])}
    """
    moments = scale_by_adahessian(b1, b2, eps, power)
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True)
