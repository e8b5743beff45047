"""Adafactor."""

from __future__ import annotations

import torch

from ..codecs import Codec
from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..core.select import Labels
from ..transforms import (
    clip_by_block_rms,
    ema,
    limit_relative_step,
    scale_by_factored_rms,
    scale_by_param_block_rms,
)
from ._assemble import assemble, is_off


def adafactor(
    lr: Hyper | None = 1e-2,
    min_dim_size_to_factor: int = 128,
    decay_rate: Hyper = 0.8,
    decay_offset: Hyper = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Hyper | None = 1.0,
    momentum: Hyper | None = None,
    codec: Codec | torch.dtype | None = None,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    eps: Hyper = 1e-30,
    factored: bool = True,
    min_parameter_scale: Hyper = 1e-3,
    floor: Hyper = 0.0,
    factored_dims: str = "largest",
    relative_step: bool = False,
) -> Chain:
    """Second moments kept as row and column means, steps relative to the parameter's size.

    f = factored(g);  u = max(rms(p), min_parameter_scale) f / max(1, rms(f) / clipping_threshold);
    p <- p - lr (u + weight_decay p), or p <- p - min(lr, 1 / sqrt(t)) u - lr weight_decay p.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        min_dim_size_to_factor: smallest size of the two dimensions of a factored leaf.
        decay_rate: exponent of the decay 1 - t^-decay_rate, >= 0.
        decay_offset: subtracted from t in the decay.
        multiply_by_parameter_scale: scale steps by the root mean square of the parameter.
        clipping_threshold: largest root mean square of the scaled gradient, > 0; None for no
            limit.
        momentum: decay of the average of u, in [0, 1); None or 0 keeps no average.
        codec: how that average is kept: a dtype or a codec; default at least float32.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        eps: added to squared gradients.
        factored: False keeps full second moments.
        min_parameter_scale: smallest scale of a parameter, >= 0.
        floor: lower bound of the root of the second moment.
        factored_dims: factor the "largest" or the "last" two dimensions.
        relative_step: bound the learning rate of u by 1 / sqrt(t); without lr it is 1 /
            sqrt(t).

    Raises:
        ValueError: a value outside its interval, or unknown ``factored_dims``.

    Source: arXiv 1804.04235. torch.optim.Adafactor is ``min_dim_size_to_factor=1,
    factored_dims="last", relative_step=True, eps=0.0`` with ``floor`` the machine epsilon of the
    parameter's dtype.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adafactor(0.5), {"w": torch.full((1,), 2.0)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-1.])}
    """
    moments: list[GradientTransformation] = [
        scale_by_factored_rms(
            factored,
            decay_rate,
            decay_offset,
            min_dim_size_to_factor,
            epsilon=eps,
            floor=floor,
            factored_dims=factored_dims,
        )
    ]
    if clipping_threshold is not None:
        moments.append(clip_by_block_rms(clipping_threshold))
    if multiply_by_parameter_scale:
        moments.append(scale_by_param_block_rms(min_parameter_scale))
    if relative_step:
        moments.append(limit_relative_step(1.0 if lr is None else lr))
    if momentum is not None and not is_off(momentum):
        moments.append(ema(momentum, debias=False, codec=codec))
    return assemble(*moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True)
