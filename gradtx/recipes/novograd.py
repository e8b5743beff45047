"""NovoGrad."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..transforms import scale_by_novograd
from ._learning_rate import with_learning_rate


def novograd(
    lr: Hyper | None = 1e-2,
    b1: Hyper = 0.9,
    b2: Hyper = 0.25,
    eps: Hyper = 1e-6,
    eps_root: Hyper = 0.0,
    weight_decay: Hyper = 0.0,
) -> Chain:
    """Gradients normalized leaf by leaf, then summed with decay.

    v <- b2 v + (1 - b2) |g|^2;  m <- b1 m + g / (sqrt(v) + eps) + weight_decay p;  p <- p - lr m.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the sum, in [0, 1).
        b2: decay of the squared norm, in [0, 1).
        eps: added to the root.
        eps_root: added inside the root.
        weight_decay: multiple of the parameter that enters the sum, >= 0.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1905.11286.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.novograd(0.5), {"w": torch.ones(2)}
    >>> tx.update({"w": torch.tensor([3.0, 4.0])}, tx.init(params), params)[0]
    {'w': tensor([-0.3000, -0.4000])}
    """
    return with_learning_rate(scale_by_novograd(b1, b2, eps, eps_root, weight_decay), lr)
