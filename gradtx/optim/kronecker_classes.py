"""Torch optimizer classes that precondition with Kronecker factors."""

from __future__ import annotations

from .. import recipes
from .recipe_optimizer import RecipeOptimizer


class SOAP(RecipeOptimizer, recipe=recipes.soap, defaults={"shampoo_beta": 0.95}):
    """Adam in the eigenbasis of Shampoo's preconditioner; the chain is ``gx.soap``."""
