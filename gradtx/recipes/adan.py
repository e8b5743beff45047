"""Adan."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_adan
from ._assemble import assemble


def adan(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.98,
    b2: Hyper = 0.92,
    b3: Hyper = 0.99,
    eps: Hyper = 1e-8,
    eps_root: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
) -> Chain:
    """Nesterov momentum from averaged differences of gradients.

    p <- p - lr (adan(g) + weight_decay p); the moments are those of ``scale_by_adan``.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of gradients, in [0, 1).
        b2: decay of their differences, in [0, 1).
        b3: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        eps_root: added inside the root.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2208.06677.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adan(0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    moments = scale_by_adan(b1, b2, b3, eps, eps_root)
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True)
