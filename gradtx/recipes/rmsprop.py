"""RMSprop."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..core.select import Labels
from ..transforms import scale_by_rms, scale_by_stddev, trace
from ._assemble import assemble, is_off


def rmsprop(
    lr: Hyper | None = 1e-2,
    decay: Hyper = 0.9,
    eps: Hyper = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Hyper | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
) -> Chain:
    """Gradients divided by the root of their average square.

    v <- decay v + (1 - decay) g'^2;  p <- p - lr g' / sqrt(v + eps), g' = g + weight_decay p; with
    momentum the quotients are summed first: t <- momentum t + g' / sqrt(v + eps), p <- p - lr t.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        decay: decay of the average, in [0, 1].
        eps: added to v.
        initial_scale: first value of v.
        eps_in_sqrt: False adds eps to sqrt(v) instead, as torch.optim.
        centered: divide by the standard deviation, v - m^2 for v.
        momentum: decay of the sum of quotients, in [0, 1]; None or 0 keeps no sum.
        nesterov: look one step ahead.
        bias_correction: correct for v having started at zero.
        weight_decay: multiple of the parameter added to the gradient, >= 0.
        mask: which leaves decay; default all.

    Raises:
        ValueError: a value outside its interval.

    Source: Tieleman and Hinton, lecture 6.5 of Neural Networks for Machine Learning, 2012; arXiv
    1308.0850.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.rmsprop(0.5, decay=0.75), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-1.])}
    """
    scaled = scale_by_stddev if centered else scale_by_rms
    moments: list[GradientTransformation] = [
        scaled(decay, eps, initial_scale, eps_in_sqrt, bias_correction)
    ]
    if momentum is not None and not is_off(momentum):
        moments.append(trace(momentum, nesterov))
    return assemble(*moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=False)
