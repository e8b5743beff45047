"""Simplified AdEMAMix."""

from __future__ import annotations

import torch

from ..codecs import Codec
from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.quotient import quotient
from ..core.random import Seed
from ..core.select import Labels
from ..transforms import accumulate, root_second_moment
from ._advanced import Moments, finish, orthogonal


def simplified_ademamix(
    lr: Hyper | None = 1e-5,
    b1: Hyper = 0.99,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    alpha_grad: Hyper = 100.0,
    factored: bool = False,
    orthograd: bool = False,
    stochastic_rounding: bool = True,
    b1_warmup: int | None = None,
    min_b1: float = 0.9,
    bias_correction: bool = True,
    numerator_correction: bool = True,
    vector_reshape: bool = True,
    codec: Codec | torch.dtype | None = None,
    seed: Seed = 0,
) -> Chain:
    """One decayed sum of gradients with extra weight on the newest.

    m <- b1 m + g;  p <- p - lr ((m + alpha_grad g) / gain / (sqrt(v') + eps) + weight_decay p),
    where gain <- b1 gain + 1 and v' = v / (1 - b2^t). The first step is 1 + alpha_grad times
    Adam's, so learning rates are about 100 times smaller.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the sum, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        alpha_grad: weight of the newest gradient, >= 0: 10 to 100 for small batches, 0 to 1 for
            large ones.
        factored: keep moments as rank-1 factors with one-bit signs.
        orthograd: take the projection on the parameter from the gradient (arXiv 2501.04697).
        stochastic_rounding: round bfloat16 parameters stochastically (arXiv 2010.06192).
        b1_warmup: updates until b1 is reached from ``min_b1``; None for at once.
        min_b1: first decay of a warm-up, in (0, 1).
        bias_correction: correct for moments having started at zero.
        numerator_correction: divide the sum by its gain; off as in the paper.
        vector_reshape: factor 1-D leaves too.
        codec: another codec, or a dtype, for all moments; wins over ``factored``.
        seed: of stochastic rounding.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2502.02431.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.simplified_ademamix(0.5, alpha_grad=1.0), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-1.0000])}
    """
    codec = Moments(factored, vector_reshape, codec).other()
    gain = bias_correction and numerator_correction
    numerator = accumulate(b1, alpha_grad, b1_warmup, min_b1, gain, codec)
    step = quotient(numerator, root_second_moment(b2, eps, bias_correction, codec=codec))
    return finish(
        orthogonal(orthograd, step),
        lr=lr,
        weight_decay=weight_decay,
        mask=mask,
        rounding_seed=seed if stochastic_rounding else None,
    )
