"""MicroAdam as a torch optimizer."""

from __future__ import annotations

from typing import Any

import torch

from .. import recipes
from ..core.protocol import GradientTransformation
from .dtype_names import dtype_of
from .recipe_optimizer import RecipeOptimizer


class MicroAdam(RecipeOptimizer, recipe=recipes.microadam):
    """AdamW with 0.96 bytes of state a parameter; the chain is ``gx.microadam``."""

    @classmethod
    def build(
        cls, *, state_dtype: str | torch.dtype = "bfloat16", **arguments: Any
    ) -> GradientTransformation:
        """The chain for these arguments.

        Args:
            state_dtype: dtype of the stored gradients by its name, "bfloat16" or "float32", because
                distributed checkpoints do not take dtypes in parameter groups.
            **arguments: of the recipe.
        """
        dtype = dtype_of("MicroAdam", "state_dtype", state_dtype)
        return super().build(state_dtype=dtype, **arguments)
