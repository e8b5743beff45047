"""MicroAdam: Adam over a window of sparse gradients, with quantised error feedback."""

from __future__ import annotations

from typing import Literal

import torch

from ..codecs import affine
from ..compressors import block_top_k
from ..core.chain import Chain, chain
from ..core.finite import apply_if_leaf_finite
from ..core.hyper import Hyper
from ..core.plain import plain
from ..core.protocol import GradientTransformation
from ..core.random import Seed
from ..core.select import Labels
from ..transforms import (
    add_decayed_weights,
    decay_first,
    error_feedback,
    round_updates,
    scale_by_learning_rate,
    sliding_window_adam,
)
from . import _microadam_kernel  # noqa: F401  registers it
from ._learning_rate import with_learning_rate

FEED_THROUGH = -2


def microadam(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    density: float = 0.01,
    window: int = 10,
    block_size: int = 16384,
    quant_block_size: int = 64,
    alpha: float = 0.0,
    bias_correction: Literal["steps", "window"] = "steps",
    rounding: Literal["nearest", "stochastic"] = "nearest",
    include_zero: bool = False,
    requantize: Literal["exact", "scale"] = "exact",
    state_dtype: torch.dtype = torch.bfloat16,
    nonfinite: Literal["raise", "skip"] = "raise",
    parity: bool = False,
    seed: Seed = 0,
) -> Chain:
    """AdamW with 0.96 bytes of state a parameter.

    a = g + e; the largest magnitudes of every block of a go into a window, the rest, in 4 bits, is
    e for the next step; p <- p - lr (sliding_window_adam + alpha e + weight_decay p). No copy of
    the gradient, no dense moment is kept.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, > 0.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        density: share of entries that a step keeps, in (0, 1].
        window: steps that are remembered, >= 1.
        block_size: elements of which the largest are kept, in [1, 32767].
        quant_block_size: elements that share a range in e, even, >= 2.
        alpha: share of e released into every update, in [0, 1); -2 moves parameters by what the 4
            bits lose, without the learning rate.
        bias_correction: exponent in the bias correction: "steps" or at most the "window".
        rounding: of e, "nearest" or "stochastic".
        include_zero: give the 4 bits an exact zero.
        requantize: how the part of e that is not released is kept, "exact" or "scale".
        state_dtype: bfloat16 or float32, of remembered values and ranges.
        nonfinite: "raise" for a leaf whose gradient is not finite, or "skip" it.
        parity: round as an implementation in the parameter's dtype does, to the bit; without a
            mask.
        seed: of stochastic rounding.

    Raises:
        ValueError: a value outside its range, or from ``update`` a gradient that is not finite.

    Source: arXiv 2405.15593.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.microadam(0.5), {"w": torch.ones(100)}
    >>> updates, _ = tx.update({"w": torch.arange(100.0)}, tx.init(params), params)
    >>> updates["w"].nonzero(), updates["w"][99]
    (tensor([[99]]), tensor(-0.5000))
    """
    quant_block_size, alpha = plain(quant_block_size), plain(alpha)
    odd = isinstance(quant_block_size, bool) or not isinstance(quant_block_size, int)
    if odd or quant_block_size < 2 or quant_block_size % 2:
        raise ValueError(
            f"microadam: quant_block_size must be an even integer >= 2, got {quant_block_size!r}"
        )
    known = isinstance(alpha, (int, float)) and (0 <= alpha < 1 or alpha == FEED_THROUGH)
    if not known:
        raise ValueError(f"microadam: alpha must be in [0, 1) or -2, got {alpha!r}")
    if parity and (mask is not None or lr is None):
        raise ValueError("microadam: parity needs lr, and takes no mask")
    keep = block_top_k(density, block_size)
    step: GradientTransformation = sliding_window_adam(
        b1, b2, window, keep, bias_correction, state_dtype, eps
    )
    through = alpha == FEED_THROUGH
    decay = () if parity else (add_decayed_weights(weight_decay, mask),)
    if parity:
        step = chain(step, round_updates())
    if through:
        if lr is None:
            raise ValueError("microadam: alpha=-2 needs lr, which does not scale what is lost")
        step = chain(step, *decay, scale_by_learning_rate(lr))
    tx: GradientTransformation = error_feedback(
        keep,
        affine(4, quant_block_size, rounding, state_dtype, seed, include_zero=include_zero),
        step,
        0.0 if through else alpha,
        "apply" if through else "drop",
        requantize,
        parity,
    )
    if not through:
        tx = with_learning_rate(chain(tx, *decay), lr)
    if parity:
        assert lr is not None
        tx = decay_first(tx, lr, weight_decay)
    return chain(apply_if_leaf_finite(tx, nonfinite))
