"""Torch optimizer classes of the recipes whose step sizes follow distances, bets or estimates."""

from __future__ import annotations

from .. import recipes
from .recipe_optimizer import RecipeOptimizer


class ACProp(RecipeOptimizer, recipe=recipes.acprop):
    """The gradient over the variance before it; the chain is ``gx.acprop``."""


class COCOB(RecipeOptimizer, recipe=recipes.cocob):
    """Bets on coordinates, without a learning rate to be found; the chain is ``gx.cocob``."""


class DAdaptAdamW(RecipeOptimizer, recipe=recipes.dadapt_adamw):
    """AdamW that estimates its learning rate; the chain is ``gx.dadapt_adamw``."""


class DoG(RecipeOptimizer, recipe=recipes.dog):
    """Steps of distance over gradients; the chain is ``gx.dog``."""


class Fromage(RecipeOptimizer, recipe=recipes.fromage):
    """Steps of a share of every leaf's norm, without growth; the chain is ``gx.fromage``."""


class MADGRAD(RecipeOptimizer, recipe=recipes.madgrad):
    """Dual averages over cube roots of squares; the chain is ``gx.madgrad``."""


class OptimisticAdam(RecipeOptimizer, recipe=recipes.optimistic_adam):
    """Adam that looks one step ahead, for games; the chain is ``gx.optimistic_adam``."""
