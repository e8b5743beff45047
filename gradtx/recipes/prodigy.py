"""Prodigy: Adam and Lion that estimate their own learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..codecs import Codec
from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..core.quotient import atan2 as by_atan2
from ..core.quotient import divide, quotient
from ..core.random import Seed
from ..core.select import Labels
from ..transforms import (
    add_decayed_weights,
    clip_by_leaf_norm,
    orthogonalize_grad,
    root_second_moment,
    scale_by_prodigy,
    stochastic_round,
)
from ..transforms.prodigy import MomentOrNewestGradient, NewestGradient
from ._advanced import Moments, Numerator
from ._assemble import is_off
from .lion_adv import lion_step


def prodigy(
    lr: Hyper = 1.0,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    beta3: Hyper | None = None,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    decoupled: bool = True,
    bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: float = 1e-6,
    d_coef: Hyper = 1.0,
    growth_rate: float = math.inf,
    slice_p: int = 1,
    codec: Codec | torch.dtype | None = None,
) -> Chain:
    """Adam with steps of length d lr; d is estimated from the run, so lr stays 1.

    p <- p - d lr (m / (sqrt(v) + d eps) + weight_decay p), m and v being averages of d g and of its
    square; ``scale_by_prodigy`` says what d is. Every step needs all leaves at once.

    Args:
        lr: multiple of d, >= 0, or a schedule: its shape, with values up to 1.
        b1: decay of the first moment, in [0, 1); 0 leaves it out, and m is g times the new d.
        b2: decay of the second moment, in [0, 1).
        beta3: decay of the estimate's sums, in [0, 1); default sqrt(b2).
        eps: added to the root of the second moment, > 0.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        decoupled: False adds the decay to the gradient.
        bias_correction: multiply lr by sqrt(1 - b2^t) / (1 - b1^t).
        safeguard_warmup: keep lr out of the estimate's denominator, for a warm-up of lr.
        d0: first d, > 0.
        d_coef: multiple of the estimate, > 0: the one to tune.
        growth_rate: largest ratio of two successive d, >= 1.
        slice_p: the estimate looks at every ``slice_p``-th element.
        codec: how moments are kept; default at least float32.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2306.06101.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.prodigy(d0=0.5, weight_decay=1.0), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.ones(1)}, tx.init(params), params)[0]
    {'w': tensor([-2.0811])}
    """
    _check_eps("prodigy", eps, False)
    decay = add_decayed_weights(weight_decay, mask)
    numerator = NewestGradient() if is_off(b1) else chain(MomentOrNewestGradient(b1, codec))
    step: GradientTransformation = quotient(
        numerator, root_second_moment(b2, eps, debias=False, codec=codec)
    )
    tx = scale_by_prodigy(
        chain(step, decay) if decoupled else step,
        lr,
        b1,
        b2,
        beta3,
        d_coef,
        d0,
        growth_rate,
        slice_p,
        safeguard_warmup,
        bias_correction=bias_correction,
        estimate_first=True,
    )
    return chain(tx) if decoupled else chain(decay, tx)


def prodigy_adv(
    lr: Hyper = 1.0,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    beta3: Hyper | None = None,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    factored: bool = False,
    ademamix: bool = False,
    simplified_ademamix: bool = False,
    orthograd: bool = False,
    grams: bool = False,
    cautious: bool = False,
    atan2: bool = False,
    stochastic_rounding: bool = True,
    d0: float = 1e-6,
    d_coef: float = 1.0,
    growth_rate: float = math.inf,
    safeguard_warmup: bool = False,
    slice_p: int = 11,
    prodigy_steps: int = 0,
    d_limiter: bool = False,
    b3: Hyper = 0.9999,
    alpha: Hyper = 5.0,
    t_alpha: int | None = None,
    alpha_grad: float = 100.0,
    vector_reshape: bool = True,
    grams_signed: bool = True,
    codec: Codec | torch.dtype | None = None,
    seed: Seed = 0,
) -> Chain:
    """Prodigy whose features compose, with state of 0.9 bytes a parameter when factored.

    p <- p - d lr (n / (sqrt(v) + d eps) + weight_decay p), where v is the average of squares of
    d g. The numerator n is the average m of d g, masked if ``cautious``, with the gradient's signs
    if ``grams``, plus alpha_t times a slow average if ``ademamix``; or, ``simplified_ademamix``,
    m <- b1 m + d g and n = m + alpha_grad d g. The d of a step comes from the steps before it, so
    leaves can be updated one by one. With factored moments d may grow too little on low-rank
    adapters; b1 = 0 or dense moments help.

    Args:
        lr: multiple of d, > 0, or a schedule: its shape, with values up to 1.
        b1: decay of the first moment, in [0, 1); 0 leaves it out.
        b2: decay of the second moment, in [0, 1).
        beta3: decay of the estimate's sums, in [0, 1); default sqrt(b2).
        eps: added to the root of the second moment, > 0; unused by ``atan2``.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        factored: keep moments as rank-1 factors with one-bit signs (arXiv 2412.08894).
        ademamix: add a slow moment (arXiv 2409.03137).
        simplified_ademamix: a decayed sum with more weight on the newest gradient
            (arXiv 2502.02431); ``d_coef`` is then divided by ``alpha_grad`` unless ``d_limiter``.
        orthograd: take the projection on the parameter from the gradient (arXiv 2501.04697).
        grams: signs of the gradient (arXiv 2412.17107).
        cautious: drop what points against the gradient (arXiv 2411.16085).
        atan2: 4/pi atan2(n, sqrt(v)) instead of the division (arXiv 2407.05872).
        stochastic_rounding: round bfloat16 parameters stochastically (arXiv 2010.06192).
        d0: first d, > 0.
        d_coef: multiple of the estimate, > 0: the one to tune.
        growth_rate: largest ratio of two successive d, >= 1.
        safeguard_warmup: keep lr out of the estimate's denominator, for a warm-up of lr.
        slice_p: the estimate looks at every ``slice_p``-th element of a leaf.
        prodigy_steps: calls after which d stays as it is; 0 for never.
        d_limiter: an estimate counts at most as d 2^(1/4).
        b3: decay of the slow moment, in [0, 1).
        alpha: weight of the slow moment, >= 0.
        t_alpha: updates until that weight is reached; None for at once.
        alpha_grad: additional weight of the newest gradient, >= 0.
        vector_reshape: factor 1-D leaves too.
        grams_signed: factored Grams keeps the moment's signs.
        codec: another codec, or a dtype, for all moments; wins over ``factored``.
        seed: of stochastic rounding.

    Raises:
        ValueError: a value outside its range, or features that exclude each other: cautious and
            grams; simplified_ademamix and ademamix, cautious, grams, atan2 or b1 = 0.

    Source: arXiv 2306.06101.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.prodigy_adv(d0=0.1, factored=True), {"w": torch.ones(2)}
    >>> state = tx.init(params)
    >>> for _ in range(5):
    ...     updates, state = tx.update(params, state, params)
    ...     params = gx.apply_updates(params, updates)
    >>> gx.tree.get(state, "d").item() > 0.1
    True
    """
    who = "prodigy_adv"
    _check_eps(who, eps, atan2)
    moments = Moments(factored, vector_reshape, codec, grams_signed or not grams)
    weight = alpha_grad if simplified_ademamix else None
    numerator = Numerator(b1, moments, cautious, grams, ademamix, b3, alpha, t_alpha, weight)
    numerator.check(who)
    if simplified_ademamix and atan2:
        raise ValueError(f"{who}: simplified_ademamix and atan2 exclude each other")
    if simplified_ademamix and alpha_grad > 0 and not d_limiter:
        d_coef = d_coef / alpha_grad
    where = None if atan2 else "end"
    denominator = root_second_moment(b2, eps, False, where, moments.other())
    step = quotient(numerator.build(), denominator, by_atan2 if atan2 else divide)
    return _with_estimate(
        chain(step, add_decayed_weights(weight_decay, mask)),
        before=(orthogonalize_grad(),) if orthograd else (),
        rounding_seed=seed if stochastic_rounding else None,
        lr=lr,
        b2=b2,
        beta3=beta3,
        d0=d0,
        d_coef=d_coef,
        growth_rate=growth_rate,
        safeguard_warmup=safeguard_warmup,
        slice_p=slice_p,
        steps=prodigy_steps,
        d_limiter=d_limiter,
    )


def prodigy_lion_adv(
    lr: Hyper = 1.0,
    b1: Hyper = 0.9,
    b2: Hyper = 0.99,
    beta3: Hyper | None = None,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    factored: bool = True,
    orthograd: bool = False,
    cautious: bool = False,
    stochastic_rounding: bool = True,
    clip_threshold: Hyper = 0.0,
    d0: float = 1e-6,
    d_coef: Hyper = 1.0,
    growth_rate: float = math.inf,
    safeguard_warmup: bool = False,
    slice_p: int = 11,
    prodigy_steps: int = 0,
    d_limiter: bool = False,
    vector_reshape: bool = True,
    codec: Codec | torch.dtype | None = None,
    seed: Seed = 0,
) -> Chain:
    """Lion with steps of length d lr, d estimated from the run.

    p <- p - d lr (sign(b1 m + (1 - b1) d g) + weight_decay p), then m <- b2 m + (1 - b2) d g. The d
    of a step comes from the steps before it, so leaves can be updated one by one. A sign turns over
    at once, so ``d_limiter=True`` is recommended.

    Args:
        lr: multiple of d, > 0, or a schedule: its shape, with values up to 1.
        b1: weight of the momentum in the update, in [0, 1).
        b2: decay of the momentum, in [0, 1).
        beta3: decay of the estimate's sums, in [0, 1); default sqrt(b2).
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        factored: keep the momentum as rank-1 factors with one-bit signs (arXiv 2412.08894).
        orthograd: take the projection on the parameter from the gradient (arXiv 2501.04697).
        cautious: drop what points against the gradient (arXiv 2411.16085).
        stochastic_rounding: round bfloat16 parameters stochastically (arXiv 2010.06192).
        clip_threshold: largest norm of a leaf's gradient (arXiv 2506.04192); 0 for none.
        d0: first d, > 0.
        d_coef: multiple of the estimate, > 0: the one to tune.
        growth_rate: largest ratio of two successive d, >= 1.
        safeguard_warmup: keep lr out of the estimate's denominator, for a warm-up of lr.
        slice_p: the estimate looks at every ``slice_p``-th element of a leaf.
        prodigy_steps: calls after which d stays as it is; 0 for never.
        d_limiter: an estimate counts at most as d 2^(1/4).
        vector_reshape: factor 1-D leaves too.
        codec: another codec, or a dtype, for the momentum; wins over ``factored``.
        seed: of stochastic rounding.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2302.06675, 2306.06101.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.prodigy_lion_adv(d0=0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    clipping = () if is_off(clip_threshold) else (clip_by_leaf_norm(clip_threshold),)
    step = lion_step(b1, b2, Moments(factored, vector_reshape, codec), cautious)
    return _with_estimate(
        chain(*step, add_decayed_weights(weight_decay, mask)),
        before=(*clipping, orthogonalize_grad()) if orthograd else clipping,
        rounding_seed=seed if stochastic_rounding else None,
        lr=lr,
        b2=b2,
        beta3=beta3,
        d0=d0,
        d_coef=d_coef,
        growth_rate=growth_rate,
        safeguard_warmup=safeguard_warmup,
        slice_p=slice_p,
        steps=prodigy_steps,
        d_limiter=d_limiter,
    )


def _with_estimate(
    step: GradientTransformation,
    before: tuple[GradientTransformation, ...],
    rounding_seed: Seed | None,
    **estimate: Any,
) -> Chain:
    """What changes the gradient, a step scaled by d, and stochastic rounding."""
    after = () if rounding_seed is None else (stochastic_round(rounding_seed),)
    return chain(*before, scale_by_prodigy(step, **estimate), *after)


def _check_eps(who: str, eps: Hyper, atan2: bool) -> None:
    if is_off(eps) and not atan2:
        raise ValueError(f"{who}: eps must be > 0, got {eps}")
