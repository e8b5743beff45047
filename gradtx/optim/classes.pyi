"""Signatures of the classes in classes.py."""

# Written by python docs/stubs.py.

from typing import Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .recipe_optimizer import RecipeOptimizer

class AMSGrad(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class AdaBelief(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-16,
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class Yogi(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 0.001,
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class NovoGrad(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.25),
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class Adan(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.98, 0.92, 0.99),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class Lion(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float | Tensor = 0.001,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class SignSGD(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class Signum(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        momentum: float | Tensor = 0.9,
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class SM3(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.1,
        momentum: float | Tensor = 0.9,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class LAMB(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class LARS(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.1,
        momentum: float | Tensor = 0.9,
        weight_decay: float | Tensor = 0.0,
        trust_coefficient: float | Tensor = 0.001,
        eps: float | Tensor = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class MARSAdamW(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.003,
        betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.99),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        gamma: float | Tensor = 0.025,
        max_norm: float | Tensor = 1.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class NoisySGD(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        eta: float | Tensor = 0.01,
        gamma: float | Tensor = 0.55,
        seed: int | Tensor = 0,
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...
