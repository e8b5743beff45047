"""SM3."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_sm3
from ._assemble import assemble


def sm3(
    lr: Hyper | None = 0.1,
    momentum: Hyper = 0.9,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    b2: Hyper = 1.0,
    eps: Hyper = 1e-8,
) -> Chain:
    """Adagrad with second moments kept per row, column and so on.

    p <- p - lr (m + weight_decay p), m the average of g / sqrt(a + eps) and a, for every entry, the
    smallest of its slices' second moments (``scale_by_sm3``).

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        momentum: decay of the average, in [0, 1).
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        b2: decay of the second moments, in [0, 1].
        eps: added inside the root.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1901.11150.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.sm3(0.5, momentum=0.0), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    return assemble(
        scale_by_sm3(momentum, b2, eps), lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True
    )
