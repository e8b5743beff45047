"""Torch optimizer classes with fitted Kronecker factors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from .. import recipes
from ..core.protocol import GradientTransformation
from ..recipes.psgd import FALLING
from .recipe_optimizer import RecipeOptimizer


class PSGDKron(RecipeOptimizer):
    """Whitened momentum, the form that most users run; the chain is ``gx.psgd_kron``.

    ``probability`` None fits with every update at first and later with 3 of 100.
    """

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 3e-4,
        "b1": 0.9,
        "weight_decay": 0.0,
        "probability": None,
        "max_size": 8192,
        "min_ndim": 2,
        "memory_save_mode": None,
        "whiten": "momentum",
        "precond_lr": 0.1,
        "init_scale": 1.0,
        "merge_dims": True,
        "form": "EQ",
        "norm": "column",
        "noise_in_momentum": False,
        "seed": 0,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {"b1": ("decay",)}

    @staticmethod
    def build(
        probability: float | None,
        max_size: float,
        min_ndim: int,
        memory_save_mode: str | None,
        whiten: str,
        init_scale: float,
        merge_dims: bool,
        form: str,
        norm: str,
        noise_in_momentum: bool,
        seed: int,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.psgd_kron(
            probability=FALLING if probability is None else probability,
            max_size=max_size,
            min_ndim=min_ndim,
            memory_save_mode=memory_save_mode,
            whiten=whiten,
            init_scale=init_scale,
            merge_dims=merge_dims,
            form=form,
            norm=norm,
            noise_in_momentum=noise_in_momentum,
            seed=seed,
        )


class PSGD(RecipeOptimizer):
    """Whitened gradients or momentum, the author's form; the chain is ``gx.psgd``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "form": "Q0.5EQ1.5",
        "precond_lr": 0.1,
        "beta_l": 0.9,
        "damping": 1e-9,
        "whiten": "gradient",
        "init_scale": None,
        "max_size": math.inf,
        "max_skew": 1.0,
        "max_rms": 2.0,
        "max_entry": 10.0,
        "probability": 1.0,
        "update_first": True,
        "norm": "column",
        "seed": 0,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "max_rms": ("clip_by_block_rms.threshold",),
        "max_entry": ("clip.max_delta",),
    }
    recipe = staticmethod(recipes.psgd)
