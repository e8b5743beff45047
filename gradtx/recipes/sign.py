"""Signs of gradients and of their average."""

from __future__ import annotations

import torch

from ..codecs import Codec
from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import ema, scale_by_sign
from ._assemble import assemble


def signsgd(
    lr: Hyper | None = 1e-3,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
) -> Chain:
    """Gradient descent with the signs of gradients.

    p <- p - lr (sign(g) + weight_decay p).

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1802.04434.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.signsgd(0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    return assemble(scale_by_sign(), lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True)


def signum(
    lr: Hyper | None = 1e-3,
    beta: Hyper = 0.9,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    codec: Codec | torch.dtype | None = None,
) -> Chain:
    """Gradient descent with the signs of averaged gradients.

    m <- beta m + (1 - beta) g;  p <- p - lr (sign(m) + weight_decay p).

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        beta: decay of the average, in [0, 1).
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        codec: how the average is kept: a dtype or a codec; default at least float32.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1802.04434.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.signum(0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    return assemble(
        ema(beta, debias=False, codec=codec),
        scale_by_sign(),
        lr=lr,
        weight_decay=weight_decay,
        mask=mask,
        decoupled=True,
    )
