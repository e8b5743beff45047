"""Adam and its relatives."""

from __future__ import annotations

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import add_decayed_weights, scale_by_adam
from ._learning_rate import with_learning_rate


def adamw(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 1e-2,
    mask: Labels | None = None,
    nesterov: bool = False,
    amsgrad: str | None = None,
) -> Chain:
    """Adam with decoupled weight decay: ``p <- p - lr (adam(g) + weight_decay p)``."""
    return with_learning_rate(
        chain(
            scale_by_adam(b1, b2, eps, nesterov=nesterov, amsgrad=amsgrad),
            add_decayed_weights(weight_decay, mask),
        ),
        lr,
    )
