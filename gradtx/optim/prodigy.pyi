"""Signatures of the classes in prodigy.py."""

# Written by python docs/stubs.py.

from typing import Literal

from torch import Tensor, dtype
from torch.optim.optimizer import ParamsT

from gradtx.codecs import Codec

from .estimating import ProdigyOptimizer

class Prodigy(ProdigyOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        beta3: float | Tensor | None = None,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        decoupled: bool = True,
        bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-06,
        d_coef: float | Tensor = 1.0,
        growth_rate: float = ...,
        slice_p: int = 1,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class ProdigyAdv(ProdigyOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        beta3: float | Tensor | None = None,
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
        simplified_ademamix: bool = False,
        alpha_grad: float = 100.0,
        d0: float = 1e-06,
        d_coef: float = 1.0,
        growth_rate: float = ...,
        safeguard_warmup: bool = False,
        slice_p: int = 11,
        prodigy_steps: int = 0,
        d_limiter: bool = False,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class ProdigyLionAdv(ProdigyOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        beta3: float | Tensor | None = None,
        weight_decay: float | Tensor = 0.0,
        factored: bool = True,
        vector_reshape: bool = True,
        codec: Codec | dtype | None = None,
        seed: int | Tensor = 0,
        orthograd: bool = False,
        stochastic_rounding: bool = True,
        cautious: bool = False,
        clip_threshold: float | Tensor = 0.0,
        d0: float = 1e-06,
        d_coef: float | Tensor = 1.0,
        growth_rate: float = ...,
        safeguard_warmup: bool = False,
        slice_p: int = 11,
        prodigy_steps: int = 0,
        d_limiter: bool = False,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...
