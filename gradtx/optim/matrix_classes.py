"""Torch optimizer classes for matrices, with AdamW for everything else."""

from __future__ import annotations

from typing import Any

from .. import recipes
from ..core.protocol import GradientTransformation
from .matrix_optimizer import ADAM, RENAME, MatrixOptimizer
from .recipe_optimizer import RecipeOptimizer


class Muon(
    MatrixOptimizer,
    recipe=recipes.muon,
    options="lr weight_decay momentum nesterov ns_coefficients eps ns_steps adjust_lr_fn ns_dtype "
    f"ns_scaling average convolutions split_sizes num_heads cautious_decay {ADAM}",
    rename=RENAME,
):
    """Orthogonalised momentum, as torch.optim.Muon; the chain is ``gx.muon``.

    Vectors and scalars get AdamW with the ``adam_`` options. A group with ``matrix=False`` gets it
    as a whole, with its own ``lr`` and ``weight_decay``: ``gx.matrix_groups`` makes such groups.
    """

    @classmethod
    def build(cls, *, adjust_lr_fn: str | None = None, **arguments: Any) -> GradientTransformation:
        """The chain for these arguments.

        Args:
            adjust_lr_fn: how steps depend on the shape of a matrix, see ``gx.scale_by_shape``:
                "original", "match_rms_adamw", "spectral_norm" or "none"; None for "original".
            **arguments: of the recipe.
        """
        return super().build(scale=adjust_lr_fn or "original", **arguments)


class NorMuon(
    MatrixOptimizer,
    recipe=recipes.normuon,
    options="lr momentum b2 weight_decay nesterov ns_coefficients eps ns_steps adjust_lr_fn "
    f"ns_dtype split_sizes num_heads cautious_decay {ADAM}",
    rename=RENAME,
):
    """Muon with steps of one size for every row; the chain is ``gx.normuon``.

    Vectors and groups with ``matrix=False`` get AdamW, as in ``gx.optim.Muon``.
    """

    @classmethod
    def build(
        cls, *, adjust_lr_fn: str | None = "spectral_norm", **arguments: Any
    ) -> GradientTransformation:
        """The chain for these arguments.

        Args:
            adjust_lr_fn: as in ``gx.optim.Muon``.
            **arguments: of the recipe.
        """
        return super().build(scale=adjust_lr_fn or "original", **arguments)


class Dion(
    MatrixOptimizer,
    recipe=recipes.dion,
    options="lr momentum weight_decay rank_fraction rank_multiple_of power_iters eps scale seed "
    f"{ADAM}",
    rename={"adam_betas": RENAME["adam_betas"]},
):
    """Orthonormal updates of low rank; the chain is ``gx.dion``.

    Vectors and groups with ``matrix=False`` get AdamW, as in ``gx.optim.Muon``.
    """


class Dion2(
    MatrixOptimizer,
    recipe=recipes.dion2,
    options="lr momentum weight_decay fraction b2 ns_coefficients eps ns_steps ns_dtype scale "
    f"{ADAM}",
    rename=RENAME,
):
    """Muon on the largest rows of the momentum; the chain is ``gx.dion2``.

    Vectors and groups with ``matrix=False`` get AdamW, as in ``gx.optim.Muon``.
    """


class Trion(
    MatrixOptimizer,
    recipe=recipes.trion,
    options="lr momentum weight_decay rank basis transform selection_norm ns_coefficients eps "
    f"ns_steps ns_dtype scaling_type {ADAM}",
    rename=RENAME,
):
    """Muon on the largest cosine components; the chain is ``gx.trion``.

    Vectors and groups with ``matrix=False`` get AdamW, as in ``gx.optim.Muon``.
    """


class DCTAdamW(RecipeOptimizer, recipe=recipes.dct_adamw):
    """AdamW on the largest cosine components of matrices; the chain is ``gx.dct_adamw``."""
