"""Base of the torch optimizer classes for matrices, with AdamW for everything else."""

from __future__ import annotations

from typing import Any

from .. import recipes
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from .recipe_optimizer import RecipeOptimizer

# The options of AdamW, which come last.
ADAM = "matrix adam_lr adam_betas adam_eps adam_weight_decay"
RENAME = {"adam_betas": "adam_b1 adam_b2", "ns_coefficients": "coefficients", "eps": "ns_eps"}


class MatrixOptimizer(RecipeOptimizer):
    """Base of the classes that treat matrices in a way of their own.

    Vectors and scalars get AdamW with the ``adam_`` options. A group with ``matrix=False`` gets it
    as a whole, with its own ``lr`` and ``weight_decay``: ``gx.matrix_groups`` makes such groups.
    """

    @classmethod
    def build(
        cls,
        *,
        matrix: bool = True,
        adam_lr: Hyper = 3e-4,
        adam_b1: Hyper = 0.9,
        adam_b2: Hyper = 0.95,
        adam_eps: Hyper = 1e-10,
        adam_weight_decay: Hyper = 0.0,
        **arguments: Any,
    ) -> GradientTransformation:
        """The chain for these arguments.

        Args:
            matrix: whether matrices are treated as such; a group with False gets AdamW, with its
                own ``lr`` and ``weight_decay``.
            adam_lr: learning rate of vectors and scalars, >= 0.
            adam_b1: decay of their first moment, in [0, 1).
            adam_b2: decay of their second moment, in [0, 1).
            adam_eps: added to the root of their second moment.
            adam_weight_decay: multiple of the parameter added to their update, >= 0.
            **arguments: of the recipe.
        """
        adam = (adam_b1, adam_b2, adam_eps)
        if not matrix:
            lr, weight_decay = arguments["lr"], arguments["weight_decay"]
            return recipes.adamw(lr, *adam, weight_decay=weight_decay)
        other = recipes.adamw(adam_lr, *adam, weight_decay=adam_weight_decay)
        return cls.recipe(other=other, **arguments)
