"""ACProp."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_acprop
from ._assemble import assemble


def acprop(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-16,
    eps_root: Hyper = 1e-16,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
) -> Chain:
    """Gradients over the root of a centred variance that does not know them yet.

    p <- p - lr (acprop(g) + weight_decay p); see ``scale_by_acprop``.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the mean, in [0, 1).
        b2: decay of the variance, in [0, 1).
        eps: added to the root.
        eps_root: added to the variance at every update.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2110.05454.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.acprop(0.5), {"w": torch.ones(1)}
    >>> grads = {"w": torch.full((1,), 3.0)}
    >>> tx.update(grads, tx.init(params), params)[0]
    {'w': tensor([-1.5000])}
    """
    moments = scale_by_acprop(b1, b2, eps, eps_root)
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True)
