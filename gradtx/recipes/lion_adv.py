"""Lion with factored state and modifiers."""

from __future__ import annotations

import torch

from ..codecs import Codec
from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.plain import plain
from ..core.protocol import GradientTransformation
from ..core.quotient import as_gradients
from ..core.random import Seed
from ..core.select import Labels
from ..transforms import cautious_mask, clip_by_leaf_norm, orthogonalize_grad, scale_by_lion
from ._advanced import Moments, finish
from ._assemble import is_off


def lion_adv(
    lr: Hyper | None = 1e-4,
    b1: Hyper = 0.9,
    b2: Hyper = 0.99,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    factored: bool = True,
    orthograd: bool = False,
    cautious: bool = False,
    stochastic_rounding: bool = True,
    clip_threshold: Hyper = 0.0,
    vector_reshape: bool = True,
    codec: Codec | torch.dtype | None = None,
    seed: Seed = 0,
) -> Chain:
    """Lion with state of 0.13 bytes a parameter.

    p <- p - lr (sign(b1 m + (1 - b1) g) + weight_decay p), then m <- b2 m + (1 - b2) g.

    Args:
        lr: learning rate > 0, a schedule, or None to leave it out.
        b1: weight of the momentum in the update, in [0, 1).
        b2: decay of the momentum, in [0, 1).
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        factored: keep the momentum as rank-1 factors with one-bit signs.
        orthograd: take the projection on the parameter from the gradient (arXiv 2501.04697).
        cautious: drop what points against the gradient (arXiv 2411.16085).
        stochastic_rounding: round bfloat16 parameters stochastically (arXiv 2010.06192).
        clip_threshold: largest norm of a leaf's gradient (arXiv 2506.04192); 0 for none.
        vector_reshape: factor 1-D leaves too.
        codec: another codec, or a dtype, for the momentum; wins over ``factored``.
        seed: of stochastic rounding.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2302.06675, 2412.08894.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.lion_adv(0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    lr = plain(lr)
    if isinstance(lr, (int, float)) and lr <= 0:
        raise ValueError(f"lion_adv: lr must be > 0, got {lr}")
    step = lion_step(b1, b2, Moments(factored, vector_reshape, codec), cautious)
    return finish(
        *lion_gradient(clip_threshold, orthograd, *step),
        lr=lr,
        weight_decay=weight_decay,
        mask=mask,
        rounding_seed=seed if stochastic_rounding else None,
    )


def lion_step(
    b1: Hyper, b2: Hyper, moments: Moments, cautious: bool
) -> tuple[GradientTransformation, ...]:
    """The members that make Lion's direction of a gradient."""
    lion = scale_by_lion(b1, b2, mu_codec=moments.first())
    return (lion, cautious_mask()) if cautious else (lion,)


def lion_gradient(
    clip_threshold: Hyper, orthograd: bool, *members: GradientTransformation
) -> tuple[GradientTransformation, ...]:
    """Clipping and OrthoGrad before members that take the result as their gradient."""
    before: tuple[GradientTransformation, ...] = ()
    if not is_off(clip_threshold):
        before += (clip_by_leaf_norm(clip_threshold),)
    if orthograd:
        before += (orthogonalize_grad(),)
    return (*before, as_gradients(*members)) if before else members
