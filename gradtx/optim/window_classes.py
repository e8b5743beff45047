"""Torch optimizer classes whose preconditioner is made of the last gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from .. import recipes
from ..core.protocol import GradientTransformation
from .microadam import dtype_of
from .recipe_optimizer import RecipeOptimizer
from .torch_classes import switch

# Options of all classes of M-FAC.
_MFAC: Mapping[str, Any] = {
    "lr": 1e-3,
    "window": 1024,
    "damping": 1e-5,
    "momentum": 0.0,
    "weight_decay": 0.0,
}


class MFAC(RecipeOptimizer):
    """Steps along the inverse Fisher matrix of the last gradients; the chain is ``gx.mfac``.

    ``dtype`` is the name of the window's dtype, "float32" or "bfloat16", or None.
    """

    signature: ClassVar[Mapping[str, Any]] = {
        **_MFAC,
        "momentum_kind": "ema",
        "weight_decay_kind": "coupled",
        "normalize": "capacity",
        "dtype": None,
        "nonfinite": "raise",
    }

    @staticmethod
    def build(
        window: int,
        momentum: float,
        momentum_kind: Literal["ema", "sum"],
        weight_decay_kind: Any,
        normalize: Literal["capacity", "count"],
        dtype: str | None,
        nonfinite: Literal["raise", "skip", "ignore"],
    ) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.mfac(
            window=window,
            momentum=switch(momentum),
            momentum_kind=momentum_kind,
            weight_decay_kind=weight_decay_kind,
            normalize=normalize,
            dtype=None if dtype is None else dtype_of("MFAC", "dtype", dtype),
            nonfinite=nonfinite,
        )
