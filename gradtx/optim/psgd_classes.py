"""Torch optimizer classes with fitted Kronecker factors."""

from __future__ import annotations

from typing import Any

from .. import recipes
from ..core.protocol import GradientTransformation
from ..recipes.psgd import FALLING
from .recipe_optimizer import RecipeOptimizer


class PSGDKron(
    RecipeOptimizer,
    recipe=recipes.psgd_kron,
    options="lr b1 weight_decay probability max_size min_ndim memory_save_mode whiten precond_lr "
    "init_scale merge_dims form norm noise_in_momentum seed",
):
    """Whitened momentum, the form that most users run; the chain is ``gx.psgd_kron``."""

    @classmethod
    def build(cls, *, probability: float | None = None, **arguments: Any) -> GradientTransformation:
        """The chain for these arguments.

        Args:
            probability: fits an update, in (0, 1]; None for every update at first and later 3 of
                100.
            **arguments: of the recipe.
        """
        often = FALLING if probability is None else probability
        return super().build(probability=often, **arguments)


class PSGD(
    RecipeOptimizer,
    recipe=recipes.psgd,
    options="lr momentum weight_decay form precond_lr beta_l damping whiten init_scale max_size "
    "max_skew max_rms max_entry probability update_first norm seed",
):
    """Whitened gradients or momentum, the author's form; the chain is ``gx.psgd``."""
