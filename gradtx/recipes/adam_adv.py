"""Adam with a composable numerator and any state codec; AdEMAMix."""

from __future__ import annotations

import torch

from ..codecs import Codec
from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.quotient import atan2 as by_atan2
from ..core.quotient import divide, quotient
from ..core.random import Seed
from ..core.select import Labels
from ..transforms import root_second_moment, undo_bias
from ._advanced import BIAS, Moments, Numerator, finish, orthogonal
from ._assemble import is_off


def adam_adv(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    factored: bool = False,
    ademamix: bool = False,
    orthograd: bool = False,
    grams: bool = False,
    cautious: bool = False,
    atan2: bool = False,
    stochastic_rounding: bool = True,
    b3: Hyper = 0.9999,
    alpha: Hyper = 5.0,
    t_alpha: int | None = None,
    bias_correction: bool = True,
    bias_on: str = "step",
    vector_reshape: bool = True,
    grams_signed: bool = True,
    codec: Codec | torch.dtype | None = None,
    seed: Seed = 0,
) -> Chain:
    """Adam whose features compose, with state of 0.14 bytes a parameter when factored.

    p <- p - lr (n / (sqrt(v') + eps) / (1 - b1^t) + weight_decay p), v' = v / (1 - b2^t). The
    numerator n is the first moment m, masked if ``cautious``, with the gradient's signs if
    ``grams``, plus alpha_t times a slow moment if ``ademamix``.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1); 0 leaves it out.
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, > 0; unused by ``atan2``.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        factored: keep moments as rank-1 factors with one-bit signs.
        ademamix: add a slow moment (arXiv 2409.03137).
        orthograd: take the projection on the parameter from the gradient (arXiv 2501.04697).
        grams: signs of the gradient (arXiv 2412.17107).
        cautious: drop what points against the gradient (arXiv 2411.16085).
        atan2: 4/pi atan2(n, sqrt(v')) instead of the division (arXiv 2407.05872).
        stochastic_rounding: round bfloat16 parameters stochastically (arXiv 2010.06192).
        b3: decay of the slow moment, in [0, 1).
        alpha: weight of the slow moment, >= 0.
        t_alpha: updates until alpha is reached; None for at once.
        bias_correction: correct for moments having started at zero.
        bias_on: what 1 - b1^t divides: the "step", the "numerator" inside atan2, or only the
            "fast" moment as in the AdEMAMix paper.
        vector_reshape: factor 1-D leaves too.
        grams_signed: factored Grams keeps the moment's signs.
        codec: another codec, or a dtype, for all moments; wins over ``factored``.
        seed: of stochastic rounding.

    Raises:
        ValueError: a value outside its interval, eps = 0 without atan2, or cautious with grams.

    Source: arXiv 1412.6980, 2412.08894.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adam_adv(0.5, factored=True), {"w": torch.ones(2)}
    >>> tx.update({"w": torch.tensor([3.0, -3.0])}, tx.init(params), params)[0]
    {'w': tensor([-0.5000,  0.5000])}
    """
    who = "adam_adv"
    if bias_on not in BIAS:
        raise ValueError(f"{who}: bias_on must be one of {', '.join(BIAS)}, got {bias_on!r}")
    if is_off(eps) and not atan2:
        raise ValueError(f"{who}: eps must be > 0 without atan2, got {eps}")
    corrected = bias_correction and not is_off(b1)
    moments = Moments(factored, vector_reshape, codec, grams_signed or not grams)
    fast = corrected and bias_on == "fast"
    numerator = Numerator(b1, moments, cautious, grams, ademamix, b3, alpha, t_alpha, None, fast)
    numerator.check(who)
    above = numerator.build()
    if corrected and bias_on == "numerator":
        above = chain(above, undo_bias(b1))
    where = None if atan2 else "end"
    denominator = root_second_moment(b2, eps, bias_correction, where, moments.other())
    step = quotient(above, denominator, by_atan2 if atan2 else divide)
    after = (undo_bias(b1),) if corrected and bias_on == "step" else ()
    return finish(
        orthogonal(orthograd, step),
        *after,
        lr=lr,
        weight_decay=weight_decay,
        mask=mask,
        rounding_seed=seed if stochastic_rounding else None,
    )


def ademamix(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    b3: Hyper = 0.9999,
    alpha: Hyper = 5.0,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    t_alpha: int | None = None,
    codec: Codec | torch.dtype | None = None,
) -> Chain:
    """AdamW with a second, much slower first moment.

    p <- p - lr ((m / (1 - b1^t) + alpha_t s) / (sqrt(v') + eps) + weight_decay p) with the slow
    average s <- b3 s + (1 - b3) g. The paper also warms b3 up, which is a
    schedule of it.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the fast moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        b3: decay of the slow moment, in [0, 1), or a schedule.
        alpha: weight of the slow moment, >= 0, or a schedule.
        eps: added to the root of the second moment, > 0.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        t_alpha: updates until alpha is reached; None for at once.
        codec: how moments are kept; default at least float32.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2409.03137.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.ademamix(0.5, alpha=0.0), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    moments = Moments(False, codec=codec)
    numerator = Numerator(
        b1, moments, ademamix=True, b3=b3, alpha=alpha, t_alpha=t_alpha, debias=not is_off(b1)
    )
    step = quotient(numerator.build(), root_second_moment(b2, eps, codec=codec))
    return finish(step, lr=lr, weight_decay=weight_decay, mask=mask)
