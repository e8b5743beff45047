"""Torch optimizer classes whose preconditioner is made of the last gradients."""

from __future__ import annotations

from typing import Any

from .. import recipes
from ..core.protocol import GradientTransformation
from .dtype_names import dtype_of
from .recipe_optimizer import RecipeOptimizer


class MFAC(
    RecipeOptimizer,
    recipe=recipes.mfac,
    options="lr window damping momentum weight_decay momentum_kind weight_decay_kind normalize "
    "dtype nonfinite",
    defaults={"momentum": 0.0},
):
    """Steps along the inverse Fisher matrix of the last gradients; the chain is ``gx.mfac``."""

    @classmethod
    def build(cls, *, dtype: str | None = None, **arguments: Any) -> GradientTransformation:
        """The chain for these arguments.

        Args:
            dtype: of the window by its name, "float32" or "bfloat16"; None for the gradients'.
            **arguments: of the recipe.
        """
        found = None if dtype is None else dtype_of("MFAC", "dtype", dtype)
        return super().build(dtype=found, **arguments)
