"""MicroAdam as a torch optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch

from .. import recipes
from ..core.protocol import GradientTransformation
from .recipe_optimizer import RecipeOptimizer


class MicroAdam(RecipeOptimizer):
    """AdamW with 0.96 bytes of state a parameter; the chain is ``gx.microadam``.

    ``state_dtype`` is the name of a dtype, "bfloat16" or "float32", because distributed checkpoints
    do not take dtypes in parameter groups.
    """

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "density": 0.01,
        "window": 10,
        "block_size": 16384,
        "quant_block_size": 64,
        "alpha": 0.0,
        "bias_correction": "steps",
        "rounding": "nearest",
        "include_zero": False,
        "requantize": "exact",
        "state_dtype": "bfloat16",
        "nonfinite": "raise",
        "parity": False,
        "seed": 0,
    }

    @staticmethod
    def build(
        density: float,
        window: int,
        block_size: int,
        quant_block_size: int,
        alpha: float,
        bias_correction: Literal["steps", "window"],
        rounding: Literal["nearest", "stochastic"],
        include_zero: bool,
        requantize: Literal["exact", "scale"],
        state_dtype: str | torch.dtype,
        nonfinite: Literal["raise", "skip"],
        parity: bool,
        seed: int,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.microadam(
            density=density,
            window=window,
            block_size=block_size,
            quant_block_size=quant_block_size,
            alpha=alpha,
            bias_correction=bias_correction,
            rounding=rounding,
            include_zero=include_zero,
            requantize=requantize,
            state_dtype=dtype_of("MicroAdam", "state_dtype", state_dtype),
            nonfinite=nonfinite,
            parity=parity,
            seed=seed,
        )


def dtype_of(who: str, name: str, value: str | torch.dtype) -> torch.dtype:
    """The dtype of that name, for an option.

    Raises:
        ValueError: torch has none.
    """
    found = getattr(torch, value, None) if isinstance(value, str) else value
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{who}: {name} must be 'bfloat16' or 'float32', got {value!r}")
    return found
