"""Lion."""

from __future__ import annotations

import torch

from ..codecs import Codec
from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_lion
from ._assemble import assemble


def lion(
    lr: Hyper | None = 1e-4,
    b1: Hyper = 0.9,
    b2: Hyper = 0.99,
    weight_decay: Hyper = 1e-3,
    mask: Labels | None = None,
    mu_codec: Codec | torch.dtype | None = None,
) -> Chain:
    """Signs of an interpolation between momentum and gradient.

    p <- p - lr (sign(b1 m + (1 - b1) g) + weight_decay p), then m <- b2 m + (1 - b2) g.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: weight of the momentum in the update, in [0, 1).
        b2: decay of the momentum, in [0, 1).
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        mu_codec: how the momentum is kept: a dtype or a codec; default at least float32.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2302.06675.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.lion(0.5, weight_decay=0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.7500])}
    """
    return assemble(
        scale_by_lion(b1, b2, mu_codec), lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True
    )
