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
        max_bytes: int | None = None,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class SparseMFAC(MFAC):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        window: int = 1024,
        damping: float | Tensor = 1e-05,
        momentum: float | Tensor = 0.0,
        weight_decay: float | Tensor = 0.0,
        density: float | int | None = 0.01,
        block_size: int = 16384,
        momentum_kind: Literal["ema", "sum"] = "sum",
        weight_decay_kind: Literal["coupled", "decoupled", "decoupled_lr", "reg", "both"] = "decoupled_lr",
        query: Literal["compressed", "gradient"] = "compressed",
        normalize: Literal["capacity", "count"] = "capacity",
        dtype: str | None = None,
        nonfinite: Literal["raise", "skip", "ignore"] = "raise",
        max_bytes: int | None = None,
        error_dtype: str | None = None,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class LowRankMFAC(MFAC):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        window: int = 1024,
        damping: float | Tensor = 1e-05,
        momentum: float | Tensor = 0.0,
        weight_decay: float | Tensor = 0.0,
        rank: int = 1,
        aggregate: bool = True,
        momentum_kind: Literal["ema", "sum"] = "ema",
        weight_decay_kind: Literal["coupled", "decoupled", "decoupled_lr", "reg", "both"] = "coupled",
        normalize: Literal["capacity", "count"] = "capacity",
        dtype: str | None = None,
        nonfinite: Literal["raise", "skip", "ignore"] = "raise",
        seed: int | Tensor = 0,
        max_bytes: int | None = None,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class GGT(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        window: int = 100,
        betas: tuple[float | Tensor | None, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 0.0001,
        weight_decay: float | Tensor = 0.0,
        gram_reg: float = 1e-06,
        decay_basis: bool = True,
        dtype: str | None = None,
        max_bytes: int | None = None,
        nonfinite: Literal["raise", "skip", "ignore"] = "raise",
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...
