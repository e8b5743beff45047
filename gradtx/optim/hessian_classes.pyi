"""Signatures of the classes in hessian_classes.py."""

# Written by python docs/stubs.py.

from typing import Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .recipe_optimizer import RecipeOptimizer

class AdaHessian(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.1,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 0.0001,
        weight_decay: float | Tensor = 0.0,
        power: float | Tensor = 1.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class Sophia(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.965, 0.99),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0001,
        gamma: float | Tensor = 0.01,
        clip_threshold: float | Tensor = 1.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...
