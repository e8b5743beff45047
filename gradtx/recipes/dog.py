"""Learning rates from distances: DoG and DoWG."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_dog, scale_by_dowg
from ._assemble import assemble


def dog(
    lr: Hyper | None = 1.0,
    init_step: tuple[str, float] = ("heuristic", 1e-6),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
) -> Chain:
    """Gradient descent with the distance from the start over the root of summed squares.

    p <- p - lr max_t ||p_t - p_0|| / sqrt(sum ||g||^2 + eps) g, with g + weight_decay p for g.

    Args:
        lr: factor >= 0, a schedule, or None to leave it out.
        init_step: what the first step follows from, see ``scale_by_dog``.
        eps: added to the sum of squares, > 0.
        weight_decay: multiple of the parameter added to the gradient, >= 0.
        mask: which leaves decay; default all.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2302.12022.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.dog(init_step=("distance", 0.5)), {"w": torch.ones(1)}
    >>> grads = {"w": torch.full((1,), 3.0)}
    >>> tx.update(grads, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    moments = scale_by_dog(init_step, eps)
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=False)


def dowg(
    lr: Hyper | None = 1.0,
    init_distance: float | None = None,
    eps: Hyper = 1e-4,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
) -> Chain:
    """Gradient descent with the squared distance over the root of weighted squares.

    p <- p - lr d / (sqrt(sum d ||g||^2) + eps) g, d the largest squared distance from the start.

    Args:
        lr: factor >= 0, a schedule, or None to leave it out.
        init_distance: d at the start, > 0; None for ``eps``.
        eps: added to the root, > 0.
        weight_decay: multiple of the parameter added to the gradient, >= 0.
        mask: which leaves decay; default all.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2305.16284.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.dowg(init_distance=0.25), {"w": torch.ones(1)}
    >>> grads = {"w": torch.full((1,), 3.0)}
    >>> tx.update(grads, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    moments = scale_by_dowg(init_distance, eps)
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=False)
