"""Signatures of the classes in adaptive_classes.py."""

# Written by python docs/stubs.py.

from typing import Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .recipe_optimizer import RecipeOptimizer

class ACProp(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-16,
        eps_root: float | Tensor = 1e-16,
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class COCOB(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        alpha: float | Tensor = 100.0,
        eps: float = 1e-08,
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class DAdaptAdamW(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-08,
        d0: float = 1e-06,
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class DoG(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        init_step: tuple[str, float] = ("heuristic", 1e-06),
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

class DoWG(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        init_distance: float = 0.0001,
        eps: float | Tensor = 0.0001,
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class Fromage(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        min_norm: float | Tensor = 1e-06,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class MADGRAD(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        momentum: float | Tensor = 0.9,
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

class MoMo(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        beta: float | Tensor = 0.9,
        lower_bound: float | Tensor = 0.0,
        weight_decay: float | Tensor = 0.0,
        adapt_lower_bound: bool = False,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class MoMoAdam(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-08,
        lower_bound: float | Tensor = 0.0,
        weight_decay: float | Tensor = 0.0,
        adapt_lower_bound: bool = False,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class OptimisticAdam(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        alpha: float | Tensor = 1.0,
        beta: float | Tensor = 1.0,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-08,
        eps_root: float | Tensor = 0.0,
        nesterov: bool = True,
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class PolyakSGD(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        max_step: float | Tensor = 1.0,
        f_min: float | Tensor = 0.0,
        eps: float | Tensor = 0.0,
        variant: Literal["sps", "sps+"] = "sps",
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...
