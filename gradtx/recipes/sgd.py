"""Gradient descent."""

from __future__ import annotations

import torch

from ..codecs import Codec
from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..core.select import Labels
from ..transforms import damped_trace, trace
from ._assemble import assemble, is_off


def sgd(
    lr: Hyper | None = 1e-3,
    momentum: Hyper | None = None,
    nesterov: bool = False,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    dampening: Hyper = 0.0,
    codec: Codec | torch.dtype | None = None,
) -> Chain:
    """Gradient descent, with momentum if asked for.

    g' = g + weight_decay p;  p <- p - lr g', with momentum t <- momentum t + (1 - dampening) g'
    (t = g' at first) and p <- p - lr t, with Nesterov p <- p - lr (g' + momentum t).

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        momentum: decay of the sum of gradients, in [0, 1]; None or 0 keeps no sum.
        nesterov: look one step ahead; needs momentum and no dampening.
        weight_decay: multiple of the parameter added to the gradient, >= 0.
        mask: which leaves decay; default all.
        dampening: the part of later gradients that is left out of the sum, in [0, 1].
        codec: how the sum is kept: a dtype or a codec; default at least float32.

    Raises:
        ValueError: a value outside its interval; nesterov without momentum or with dampening.

    Source: Sutskever et al., On the importance of initialization and momentum, ICML 2013.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.sgd(0.5, weight_decay=1.0), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.ones(1)}, tx.init(params), params)[0]
    {'w': tensor([-1.])}
    """
    if nesterov and (is_off(momentum) or not is_off(dampening)):
        raise ValueError("sgd: nesterov=True needs a momentum and no dampening")
    moments: list[GradientTransformation] = []
    if momentum is not None and not is_off(momentum):
        moments.append(
            trace(momentum, nesterov, codec)
            if is_off(dampening)
            else damped_trace(momentum, dampening, codec)
        )
    return assemble(*moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=False)
