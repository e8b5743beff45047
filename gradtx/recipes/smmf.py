"""SMMF."""

from __future__ import annotations

from typing import Literal

from ..codecs import rank1
from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_smmf
from ._assemble import assemble


def smmf(
    lr: Hyper | None = 1e-3,
    beta: Hyper | None = 0.9,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    decay_rate: Hyper = -0.5,
    growth_rate: Hyper = 0.999,
    vector_reshape: bool = True,
    vector_rule: Literal["ndim", "squeezed"] = "squeezed",
    decoupled: bool = True,
) -> Chain:
    """Adam-like steps from two moments kept as rank-1 factors with one-bit signs.

    p <- p - lr (m / (sqrt(v) + eps) + weight_decay p); m and v as in ``scale_by_smmf``.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        beta: first decay of m, in [0, 1); None for no first moment.
        eps: added to the root of the second moment.
        weight_decay: multiple of the parameter, >= 0.
        mask: which leaves decay; default all.
        decay_rate: exponent in [-1, 0]; -0.5 for convolutional networks, -0.8 for transformers.
        growth_rate: factor of beta from step to step, in [0, 1].
        vector_reshape: factor vectors too.
        vector_rule: what a vector is: one dimension ("ndim"), or one that is not 1 ("squeezed").
        decoupled: decay the parameter; otherwise add the decay to the gradient.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2412.08894.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.smmf(0.5, beta=None), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    moments = scale_by_smmf(
        0.0 if beta is None else beta,
        eps,
        decay_rate,
        growth_rate,
        momentum=beta is not None,
        codec=rank1(vector_reshape, vector_rule),
    )
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=decoupled)
