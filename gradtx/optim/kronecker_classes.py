"""Torch optimizer classes that precondition with Kronecker factors."""

from __future__ import annotations

from .. import recipes
from .recipe_optimizer import RecipeOptimizer


class DASH(RecipeOptimizer, recipe=recipes.dash):
    """Shampoo on a grid of blocks with Adam's norm on each; the chain is ``gx.dash``."""


class KLShampoo(RecipeOptimizer, recipe=recipes.kl_shampoo):
    """Shampoo whose factors fit the covariance jointly; the chain is ``gx.kl_shampoo``."""


class KLSOAP(RecipeOptimizer, recipe=recipes.kl_soap, defaults={"shampoo_beta": 0.98}):
    """Adam in the eigenbasis of KL-Shampoo's factors; the chain is ``gx.kl_soap``."""


class OneSidedShampoo(RecipeOptimizer, recipe=recipes.one_sided_shampoo):
    """Shampoo with one factor, on the shorter side; the chain is ``gx.one_sided_shampoo``."""


class REKLS(RecipeOptimizer, recipe=recipes.rekls):
    """KL-SOAP in the basis of the current factors; the chain is ``gx.rekls``."""


class Shampoo(RecipeOptimizer, recipe=recipes.shampoo):
    """Shampoo as Distributed Shampoo has it, with grafting; the chain is ``gx.shampoo``."""


class SOAP(RecipeOptimizer, recipe=recipes.soap, defaults={"shampoo_beta": 0.95}):
    """Adam in the eigenbasis of Shampoo's preconditioner; the chain is ``gx.soap``."""
