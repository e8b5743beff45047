"""Signatures of the classes in microadam.py."""

# Written by python docs/stubs.py.

from typing import Literal

from torch import Tensor, dtype
from torch.optim.optimizer import ParamsT

from .recipe_optimizer import RecipeOptimizer

class MicroAdam(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        density: float = 0.01,
        window: int = 10,
        block_size: int = 16384,
        quant_block_size: int = 64,
        alpha: float = 0.0,
        bias_correction: Literal["steps", "window"] = "steps",
        rounding: Literal["nearest", "stochastic"] = "nearest",
        include_zero: bool = False,
        requantize: Literal["exact", "scale"] = "exact",
        state_dtype: str | dtype = "bfloat16",
        nonfinite: Literal["raise", "skip"] = "raise",
        parity: bool = False,
        seed: int | Tensor = 0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...
