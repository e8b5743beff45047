"""Optimistic gradient descent and Adam."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_adam, scale_by_optimistic_gradient
from ._assemble import assemble


def optimistic_gradient_descent(
    lr: Hyper | None = 1e-3,
    alpha: Hyper = 1.0,
    beta: Hyper = 1.0,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
) -> Chain:
    """Gradient descent that adds the last change of the gradient, for games and saddle points.

    p <- p - lr ((alpha + beta) g - beta g_previous + weight_decay p).

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        alpha: weight of the gradient.
        beta: weight of its change.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1901.08511.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.optimistic_gradient_descent(0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-1.5000])}
    """
    moments = scale_by_optimistic_gradient(alpha, beta)
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True)


def optimistic_adam(
    lr: Hyper | None = 1e-3,
    alpha: Hyper = 1.0,
    beta: Hyper = 1.0,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    eps_root: Hyper = 0.0,
    nesterov: bool = True,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
) -> Chain:
    """Adam that adds the last change of its direction, for games and saddle points.

    p <- p - lr ((alpha + beta) r - beta r_previous + weight_decay p), r the direction of Adam.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        alpha: weight of the direction.
        beta: weight of its change.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        eps_root: added inside the root.
        nesterov: look one step ahead.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1711.00141.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.optimistic_adam(0.5, nesterov=False), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    moments = (
        scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov),
        scale_by_optimistic_gradient(alpha, beta),
    )
    return assemble(*moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True)
