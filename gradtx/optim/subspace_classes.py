"""Torch optimizer classes that work in a subspace or with a second moment per subset."""

from __future__ import annotations

from functools import partial

from .. import recipes
from .recipe_optimizer import RecipeOptimizer

_ADAM = "lr betas eps weight_decay"
_SUBSPACE = "rank update_proj_gap scale proj_type proj"
_WHERE = "on_refresh matricize where"


class LDAdamW(RecipeOptimizer, recipe=recipes.ldadamw):
    """AdamW in a subspace that moves at every step; the chain is ``gx.ldadamw``."""


class AdamWSN(RecipeOptimizer, recipe=recipes.adamw_sn, always="b2"):
    """AdamW with one second moment per subset of entries; the chain is ``gx.adamw_sn``.

    Steps are smaller than AdamW's by the root of the subset's size.
    """


class RMSPropSN(RecipeOptimizer, recipe=recipes.rmsprop_sn, always="b2"):
    """RMSprop with one second moment per subset of entries; the chain is ``gx.rmsprop_sn``."""


class AdaGradSN(RecipeOptimizer, recipe=recipes.adagrad_sn, rename={"momentum": "b1"}):
    """AdaGrad with one sum of squares per subset, and momentum; the chain is ``gx.adagrad_sn``."""


class SNSM(RecipeOptimizer, recipe=recipes.snsm):
    """Any first moment over any second one; the chain is ``gx.snsm``."""


class AdamSNSM(RecipeOptimizer, recipe=recipes.adam_snsm, always="b1 b2"):
    """Momentum in a subspace over a second moment per subset; the chain is ``gx.adam_snsm``."""


class GaLoreAdamW(
    RecipeOptimizer,
    recipe=recipes.galore_adamw,
    options=f"{_ADAM} {_SUBSPACE} {_WHERE} correct_bias",
):
    """AdamW in the gradient's leading subspace; the chain is ``gx.galore_adamw``."""


class GaLoreAdamW8bit(
    RecipeOptimizer,
    recipe=recipes.galore_adamw8bit,
    options=f"{_ADAM} {_SUBSPACE} matricize where block_size min_size",
):
    """``GaLoreAdamW`` with 8-bit moments; the chain is ``gx.galore_adamw8bit``."""


class GaLoreAdafactor(
    RecipeOptimizer,
    recipe=partial(recipes.galore_adafactor, relative_step=False),
    options="lr eps clip_threshold decay_rate b1 weight_decay scale_parameter "
    f"{_SUBSPACE} {_WHERE}",
    rename={"eps": "eps min_parameter_scale"},
    defaults={"lr": 1e-2, "b1": 0.0},
):
    """Adafactor in the gradient's leading subspace; the chain is ``gx.galore_adafactor``.

    ``eps`` holds what is added to squared gradients, and the smallest scale of a parameter.

    Args:
        lr: learning rate >= 0.
    """


class APOLLO(
    RecipeOptimizer,
    recipe=recipes.apollo,
    options=f"{_ADAM} {_SUBSPACE} {_WHERE} scale_type correct_bias scale_front limit_growth seed",
):
    """Gradients scaled as Adam would, which a random subspace tells; the chain is ``gx.apollo``."""


class APOLLOMini(APOLLO, defaults={"rank": 1, "scale": 128.0, "scale_type": "tensor"}):
    """APOLLO with one direction and one factor per matrix; the chain is ``gx.apollo_mini``."""
