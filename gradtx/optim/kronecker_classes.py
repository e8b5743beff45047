"""Torch optimizer classes that precondition with Kronecker factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .. import recipes
from .recipe_optimizer import RecipeOptimizer


class SOAP(RecipeOptimizer):
    """Adam in the eigenbasis of Shampoo's preconditioner; the chain is ``gx.soap``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 3e-3,
        "betas": (0.95, 0.95),
        "shampoo_beta": 0.95,
        "eps": 1e-8,
        "weight_decay": 0.01,
        "precondition_frequency": 10,
        "max_precond_dim": 10000,
        "merge_dims": False,
        "precondition_1d": False,
        "normalize_grads": False,
        "data_format": "channels_first",
        "correct_bias": True,
        "skips_first": True,
        "one_sided": False,
        "staggered": False,
        "packed": False,
        "codec": None,
    }
    recipe = staticmethod(recipes.soap)
