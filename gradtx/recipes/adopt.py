"""ADOPT, plain and with a composable numerator and any state codec."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..codecs import Codec
from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.random import Seed
from ..core.select import Labels
from ..transforms import scale, scale_by_adopt, skip_first
from ._advanced import Moments, Numerator, finish, orthogonal


def adopt(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.9999,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    clip: float | Callable[[Tensor], Tensor] | None = 0.25,
    codec: Codec | torch.dtype | None = None,
) -> Chain:
    """Adam that converges for any b2: a step is divided by the second moment of the past.

    x = clip(g / (sqrt(v) + eps)), m <- b1 m + (1 - b1) x, p <- p - lr (m + weight_decay p), then
    v <- b2 v + (1 - b2) g^2. A leaf's first gradient only sets v = g^2.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        clip: x is at most (t - 1)^clip; or a function of t - 1; None for no bound.
        codec: how moments are kept; default at least float32.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2411.02853.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adopt(0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([0.])}
    """
    return finish(
        scale_by_adopt(b2, eps, clip, codec=codec),
        Numerator(b1, Moments(False, codec=codec)).build(),
        lr=lr,
        weight_decay=weight_decay,
        mask=mask,
        after=(skip_first(),),
    )


def adopt_adv(
    lr: Hyper | None = 1e-4,
    b1: Hyper = 0.9,
    b2: Hyper = 0.9999,
    eps: Hyper = 1e-6,
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
    b3: Hyper = 0.9999,
    alpha: Hyper = 5.0,
    t_alpha: int | None = None,
    alpha_grad: Hyper = 100.0,
    clip: float | Callable[[Tensor], Tensor] | None = 0.25,
    vector_reshape: bool = True,
    grams_signed: bool = True,
    codec: Codec | torch.dtype | None = None,
    seed: Seed = 0,
) -> Chain:
    """ADOPT whose features compose, with state of 0.14 bytes a parameter when factored.

    x = clip(g / (sqrt(v) + eps)) with the v before this gradient, or x = 4/pi atan2(g, sqrt(v));
    p <- p - lr (n(x) + weight_decay p). The numerator n is that of ``adam_adv`` over x, or with
    ``simplified_ademamix`` the sum m <- b1 m + x plus alpha_grad x.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1); 0 leaves it out.
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment; unused by ``atan2``.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        factored: keep moments as rank-1 factors with one-bit signs.
        ademamix: add a slow moment (arXiv 2409.03137).
        simplified_ademamix: a sum and the newest gradient instead of averages (arXiv 2502.02431).
        orthograd: take the projection on the parameter from the gradient (arXiv 2501.04697).
        grams: signs of the gradient (arXiv 2412.17107).
        cautious: drop what points against the gradient (arXiv 2411.16085).
        atan2: bounded quotient without eps and clip; also uses a leaf's first gradient.
        stochastic_rounding: round bfloat16 parameters stochastically (arXiv 2010.06192).
        b3: decay of the slow moment, in [0, 1).
        alpha: weight of the slow moment, >= 0.
        t_alpha: updates until alpha is reached; None for at once.
        alpha_grad: weight of the newest gradient, >= 0.
        clip: x is at most (t - 1)^clip; or a function of t - 1; None for no bound.
        vector_reshape: factor 1-D leaves too.
        grams_signed: factored Grams keeps the moment's signs.
        codec: another codec, or a dtype, for all moments; wins over ``factored``.
        seed: of stochastic rounding.

    Raises:
        ValueError: a value outside its interval, or features that exclude each other.

    Source: arXiv 2411.02853, 2412.08894.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adopt_adv(0.5, b1=0.0, atan2=True), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    who = "adopt_adv"
    moments = Moments(factored, vector_reshape, codec, grams_signed or not grams)
    numerator = Numerator(
        b1,
        moments,
        cautious,
        grams,
        ademamix,
        b3,
        alpha,
        t_alpha,
        alpha_grad if simplified_ademamix else None,
    )
    numerator.check(who)
    if simplified_ademamix and atan2:
        raise ValueError(f"{who}: simplified_ademamix and atan2 exclude each other")
    past = scale_by_adopt(b2, eps, clip, atan2, moments.other())
    whole = (scale(4 / math.pi),) if atan2 else ()
    return finish(
        orthogonal(orthograd, past, numerator.build()),
        *whole,
        lr=lr,
        weight_decay=weight_decay,
        mask=mask,
        after=() if atan2 else (skip_first(),),
        rounding_seed=seed if stochastic_rounding else None,
    )
