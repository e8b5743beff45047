"""Torch optimizer classes whose preconditioner is made of the last gradients."""

from __future__ import annotations

from typing import Any

from .. import recipes
from ..core.protocol import GradientTransformation
from .dtype_names import dtype_of
from .recipe_optimizer import RecipeOptimizer

_MFAC = "lr window damping momentum weight_decay"
_KINDS = "momentum_kind weight_decay_kind"


class MFAC(
    RecipeOptimizer,
    recipe=recipes.mfac,
    options=f"{_MFAC} {_KINDS} normalize dtype nonfinite max_bytes",
    defaults={"momentum": 0.0},
):
    """Steps along the inverse Fisher matrix of the last gradients; the chain is ``gx.mfac``.

    Steps are up to lr / damping times the gradient at first; ``gx.mfac`` says what rates suit.
    """

    @classmethod
    def build(cls, *, dtype: str | None = None, **arguments: Any) -> GradientTransformation:
        """The chain for these arguments.

        Args:
            dtype: of the window by its name, "float32" or "bfloat16"; None for the gradients'.
            **arguments: of the recipe.
        """
        found = None if dtype is None else dtype_of(cls.__name__, "dtype", dtype)
        return super().build(dtype=found, **arguments)


class SparseMFAC(
    MFAC,
    recipe=recipes.sparse_mfac,
    options=f"{_MFAC} density block_size {_KINDS} query normalize dtype nonfinite max_bytes "
    "error_dtype",
    defaults={"momentum": 0.0},
):
    """M-FAC over the largest entries, with error feedback; the chain is ``gx.sparse_mfac``.

    Entries are chosen in blocks of every parameter, so that the state stays with it. Steps are up
    to lr / damping times the gradient at first; ``gx.sparse_mfac`` says what rates suit.

    Args:
        density: share of entries that are kept, in (0, 1].
        error_dtype: of what is dropped by its name, "bfloat16" for half the memory; None for
            float32.
    """

    @classmethod
    def build(cls, *, error_dtype: str | None = None, **arguments: Any) -> GradientTransformation:
        """The chain for these arguments.

        Args:
            error_dtype: of what is dropped by its name; None for float32.
            **arguments: of the recipe.
        """
        found = None
        if error_dtype is not None:
            found = dtype_of(cls.__name__, "error_dtype", error_dtype)
        return super().build(error_dtype=found, **arguments)


class LowRankMFAC(
    MFAC,
    recipe=recipes.lowrank_mfac,
    options=f"{_MFAC} rank aggregate {_KINDS} normalize dtype nonfinite seed max_bytes",
    defaults={"momentum": 0.0},
):
    """M-FAC over factors of a low rank, with error feedback; the chain is ``gx.lowrank_mfac``.

    Steps are up to lr / damping times the gradient at first; ``gx.lowrank_mfac`` says what rates
    suit.
    """


class GGT(
    RecipeOptimizer,
    recipe=recipes.ggt,
    options="lr window betas eps weight_decay gram_reg decay_basis dtype max_bytes nonfinite",
):
    """Full-matrix adaptive steps from a window of gradients; the chain is ``gx.ggt``."""

    @classmethod
    def build(cls, *, dtype: str | None = None, **arguments: Any) -> GradientTransformation:
        """The chain for these arguments.

        Args:
            dtype: of the window by its name, "float32" or "bfloat16"; None for the gradients'.
            **arguments: of the recipe.
        """
        found = None if dtype is None else dtype_of(cls.__name__, "dtype", dtype)
        return super().build(dtype=found, **arguments)
