"""Signatures of the classes in window_classes.py."""

# Written by python docs/stubs.py.

from typing import Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .recipe_optimizer import RecipeOptimizer

class MFAC(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        window: int = 1024,
        damping: float | Tensor = 1e-05,
        momentum: float | Tensor = 0.0,
        weight_decay: float | Tensor = 0.0,
        momentum_kind: Literal["ema", "sum"] = "ema",
        weight_decay_kind: Literal["coupled", "decoupled", "decoupled_lr", "reg", "both"] = "coupled",
        normalize: Literal["capacity", "count"] = "capacity",
        dtype: str | None = None,
        nonfinite: Literal["raise", "skip", "ignore"] = "raise",
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...
