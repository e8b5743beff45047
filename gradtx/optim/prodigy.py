"""Torch optimizer classes of the recipes that estimate their own learning rate."""

from __future__ import annotations

from .. import recipes
from .advanced_classes import ADEMAMIX, MASKS, ROUNDING, STATE
from .estimating import ProdigyOptimizer

_ESTIMATE = "d0 d_coef growth_rate safeguard_warmup slice_p prodigy_steps d_limiter"


class Prodigy(
    ProdigyOptimizer,
    recipe=recipes.prodigy,
    always="b2",
    options=(
        "lr betas beta3 eps weight_decay decoupled bias_correction safeguard_warmup d0 d_coef "
        "growth_rate slice_p"
    ),
):
    """Adam that estimates its learning rate; the chain is ``gx.prodigy``.

    Every step needs all gradients at once; ``gx.optim.ProdigyAdv`` can step in backward.
    """


class ProdigyAdv(
    ProdigyOptimizer,
    recipe=recipes.prodigy_adv,
    options=f"lr betas beta3 eps weight_decay {STATE} {ROUNDING} {MASKS} {ADEMAMIX} "
    f"simplified_ademamix alpha_grad {_ESTIMATE}",
    always="b2",
):
    """Prodigy whose features compose; the chain is ``gx.prodigy_adv``."""


class ProdigyLionAdv(
    ProdigyOptimizer,
    recipe=recipes.prodigy_lion_adv,
    options=f"lr betas beta3 weight_decay {STATE} {ROUNDING} cautious clip_threshold {_ESTIMATE}",
    always="b1 b2",
):
    """Lion that estimates its learning rate; the chain is ``gx.prodigy_lion_adv``."""
