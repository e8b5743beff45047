"""Torch optimizer classes for the recipes that torch.optim does not have."""

from __future__ import annotations

from .. import recipes
from .recipe_optimizer import RecipeOptimizer

_ADAM = "lr betas eps weight_decay"


class AMSGrad(RecipeOptimizer, recipe=recipes.amsgrad, options=_ADAM):
    """Adam over the largest corrected second moment; the chain is ``gx.amsgrad``.

    ``gx.optim.Adam(amsgrad=True)`` takes the largest raw second moment, as torch.optim does.
    """


class AdaBelief(RecipeOptimizer, recipe=recipes.adabelief, options=_ADAM):
    """Adam over the variance around the momentum; the chain is ``gx.adabelief``."""


class Yogi(RecipeOptimizer, recipe=recipes.yogi):
    """Adam with an additive second moment; the chain is ``gx.yogi``."""


class NovoGrad(RecipeOptimizer, recipe=recipes.novograd, options=_ADAM):
    """One second moment per leaf; the chain is ``gx.novograd``."""


class Adan(RecipeOptimizer, recipe=recipes.adan, options=_ADAM):
    """Adam with an average of gradient differences; the chain is ``gx.adan``."""


class Lion(RecipeOptimizer, recipe=recipes.lion, options="lr betas weight_decay"):
    """The sign of an interpolated momentum; the chain is ``gx.lion``."""


class SignSGD(RecipeOptimizer, recipe=recipes.signsgd):
    """The sign of the gradient; the chain is ``gx.signsgd``."""


class Signum(
    RecipeOptimizer,
    recipe=recipes.signum,
    options="lr momentum weight_decay",
    rename={"momentum": "beta"},
):
    """The sign of the momentum; the chain is ``gx.signum``."""


class SM3(RecipeOptimizer, recipe=recipes.sm3, options="lr momentum eps weight_decay"):
    """Second moments per row and column; the chain is ``gx.sm3``."""


class LAMB(RecipeOptimizer, recipe=recipes.lamb, options=_ADAM):
    """Adam with a step per leaf proportional to its norm; the chain is ``gx.lamb``."""


class LARS(
    RecipeOptimizer,
    recipe=recipes.lars,
    options="lr momentum weight_decay trust_coefficient eps nesterov",
):
    """Momentum with a step per leaf proportional to its norm; the chain is ``gx.lars``."""


class MARSAdamW(RecipeOptimizer, recipe=recipes.mars_adamw):
    """AdamW on variance-reduced gradients; the chain is ``gx.mars_adamw``."""


class NoisySGD(RecipeOptimizer, recipe=recipes.noisy_sgd):
    """Gradient descent with Gaussian noise of shrinking variance; the chain is ``gx.noisy_sgd``."""
