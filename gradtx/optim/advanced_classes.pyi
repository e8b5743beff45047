"""Signatures of the classes in advanced_classes.py."""

# Written by python docs/stubs.py.

from collections.abc import Callable
from typing import Literal

from torch import Tensor, dtype
from torch.optim.optimizer import ParamsT

from gradtx.codecs import Codec

from .recipe_optimizer import RecipeOptimizer

class AdamAdv(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        factored: bool = False,
        vector_reshape: bool = True,
        codec: Codec | dtype | None = None,
        seed: int | Tensor = 0,
        orthograd: bool = False,
        stochastic_rounding: bool = True,
        cautious: bool = False,
        grams: bool = False,
        grams_signed: bool = True,
        atan2: bool = False,
        ademamix: bool = False,
        b3: float | Tensor = 0.9999,
        alpha: float | Tensor = 5.0,
        t_alpha: int | None = None,
        bias_correction: bool = True,
        bias_on: str = "step",
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class AdoptAdv(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.9999),
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        factored: bool = False,
        vector_reshape: bool = True,
        codec: Codec | dtype | None = None,
        seed: int | Tensor = 0,
        orthograd: bool = False,
        stochastic_rounding: bool = True,
        cautious: bool = False,
        grams: bool = False,
        grams_signed: bool = True,
        atan2: bool = False,
        ademamix: bool = False,
        b3: float | Tensor = 0.9999,
        alpha: float | Tensor = 5.0,
        t_alpha: int | None = None,
        simplified_ademamix: bool = False,
        alpha_grad: float | Tensor = 100.0,
        clip: float | Callable[[Tensor], Tensor] | None = 0.25,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class SimplifiedAdEMAMix(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-05,
        betas: tuple[float | Tensor, float | Tensor] = (0.99, 0.999),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        alpha_grad: float | Tensor = 100.0,
        factored: bool = False,
        vector_reshape: bool = True,
        codec: Codec | dtype | None = None,
        seed: int | Tensor = 0,
        orthograd: bool = False,
        stochastic_rounding: bool = True,
        b1_warmup: int | None = None,
        min_b1: float = 0.9,
        bias_correction: bool = True,
        numerator_correction: bool = True,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class LionAdv(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float | Tensor = 0.0,
        factored: bool = True,
        vector_reshape: bool = True,
        codec: Codec | dtype | None = None,
        seed: int | Tensor = 0,
        orthograd: bool = False,
        stochastic_rounding: bool = True,
        cautious: bool = False,
        clip_threshold: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class Adopt(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.9999),
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        clip: float | Callable[[Tensor], Tensor] | None = 0.25,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class AdEMAMix(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.9, 0.999, 0.9999),
        alpha: float | Tensor = 5.0,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        t_alpha: int | None = None,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class SMMF(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        beta: float | Tensor | None = 0.9,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        decay_rate: float | Tensor = -0.5,
        growth_rate: float | Tensor = 0.999,
        vector_reshape: bool = True,
        vector_rule: Literal["ndim", "squeezed"] = "squeezed",
        decoupled: bool = True,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class CAdamW(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        bias_correction: bool = True,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class CLion(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0001,
        betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.98),
        weight_decay: float | Tensor = 0.0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class AdamW8bit(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01,
        block_size: int = 256,
        min_size: int = 4096,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class AdamW4bit(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01,
        block_size: int = 128,
        min_size: int = 4096,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...
