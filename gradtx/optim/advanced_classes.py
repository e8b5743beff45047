"""Torch optimizer classes of the recipes whose features compose, and of low-memory AdamW."""

from __future__ import annotations

from .. import recipes
from .recipe_optimizer import RecipeOptimizer

# Options that several of these classes have.
STATE = "factored vector_reshape codec seed"
ROUNDING = "orthograd stochastic_rounding"
MASKS = "cautious grams grams_signed atan2"
ADEMAMIX = "ademamix b3 alpha t_alpha"


class AdamAdv(
    RecipeOptimizer,
    recipe=recipes.adam_adv,
    options=f"lr betas eps weight_decay {STATE} {ROUNDING} {MASKS} {ADEMAMIX} "
    "bias_correction bias_on",
):
    """Adam whose features compose; the chain is ``gx.adam_adv``."""


class AdoptAdv(
    RecipeOptimizer,
    recipe=recipes.adopt_adv,
    options=f"lr betas eps weight_decay {STATE} {ROUNDING} {MASKS} {ADEMAMIX} "
    "simplified_ademamix alpha_grad clip",
):
    """ADOPT whose features compose; the chain is ``gx.adopt_adv``."""


class SimplifiedAdEMAMix(
    RecipeOptimizer,
    recipe=recipes.simplified_ademamix,
    options=f"lr betas eps weight_decay alpha_grad {STATE} {ROUNDING} b1_warmup min_b1 "
    "bias_correction numerator_correction",
):
    """One decayed sum and the newest gradient; the chain is ``gx.simplified_ademamix``."""


class LionAdv(
    RecipeOptimizer,
    recipe=recipes.lion_adv,
    options=f"lr betas weight_decay {STATE} {ROUNDING} cautious clip_threshold",
):
    """Lion with factored state and modifiers; the chain is ``gx.lion_adv``."""


class Adopt(RecipeOptimizer, recipe=recipes.adopt, options="lr betas eps weight_decay clip"):
    """Adam over the second moment of the past; the chain is ``gx.adopt``."""


class AdEMAMix(
    RecipeOptimizer,
    recipe=recipes.ademamix,
    options="lr betas alpha eps weight_decay t_alpha",
    always="b1",
):
    """AdamW with a second, slower moment; the chain is ``gx.ademamix``."""


class SMMF(RecipeOptimizer, recipe=recipes.smmf):
    """Two moments as rank-1 factors with one-bit signs; the chain is ``gx.smmf``."""


class CAdamW(
    RecipeOptimizer,
    recipe=recipes.c_adamw,
    options="lr betas eps weight_decay bias_correction",
    always="b1",
):
    """AdamW with a mask on its first moment; the chain is ``gx.c_adamw``."""


class CLion(RecipeOptimizer, recipe=recipes.c_lion, options="lr betas weight_decay"):
    """Lion with a mask on its sign; the chain is ``gx.c_lion``."""


class AdamW8bit(RecipeOptimizer, recipe=recipes.adamw8bit):
    """AdamW with 8-bit moments; the chain is ``gx.adamw8bit``."""


class AdamW4bit(RecipeOptimizer, recipe=recipes.adamw4bit):
    """AdamW with 4-bit moments; the chain is ``gx.adamw4bit``."""
