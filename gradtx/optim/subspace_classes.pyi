"""Signatures of the classes in subspace_classes.py."""

# Written by python docs/stubs.py.

from collections.abc import Callable
from typing import Literal

from torch import Tensor, dtype
from torch.optim.optimizer import ParamsT

from gradtx.codecs import Codec
from gradtx.core.leaves import LeafInfo
from gradtx.subspace import Projector

from .recipe_optimizer import RecipeOptimizer

class LDAdamW(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.908, 0.99),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        rank: int | None = 16,
        rho: float | Tensor = 0.908,
        proj_type: str = "std",
        proj_method: str | Projector = "power_iteration",
        error_feedback: bool = True,
        error_codec: Codec | dtype | None = None,
        matricize: bool = False,
        where: Callable[[LeafInfo], bool] | None = None,
        seed: int | Tensor = 0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class AdamWSN(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        subset: int | str | None = -2,
        correct_bias: bool = True,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class RMSPropSN(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        b2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        subset: int | str | None = "heuristics",
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class AdaGradSN(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.5,
        momentum: float | Tensor = 0.9,
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        subset: int | str | None = "heuristics",
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class SNSM(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        momentum: str | None = "ema",
        second_moment: str | None = "ema",
        subset: int | str | None = None,
        rank: int | None = None,
        update_proj_gap: int | None = None,
        proj_type: str | Projector = "svd",
        on_refresh: str = "reset",
        correct_bias: bool = True,
        parity: bool = False,
        matricize: bool = False,
        where: Callable[[LeafInfo], bool] | None = None,
        seed: int | Tensor = 0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class AdamSNSM(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        rank: int = 128,
        update_proj_gap: int = 200,
        subset: int | str | None = "heuristics",
        proj_type: str | Projector = "svd",
        on_refresh: str = "reset",
        correct_bias: bool = True,
        matricize: bool = False,
        where: Callable[[LeafInfo], bool] | None = None,
        seed: int | Tensor = 0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class GaLoreAdamW(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        rank: int | None = 128,
        update_proj_gap: int = 200,
        scale: float | Tensor = 0.25,
        proj_type: str = "std",
        proj: str | Projector = "svd",
        on_refresh: str = "keep",
        matricize: bool = False,
        where: Callable[[LeafInfo], bool] | None = None,
        correct_bias: bool = True,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class GaLoreAdamW8bit(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01,
        rank: int | None = 128,
        update_proj_gap: int = 200,
        scale: float | Tensor = 0.25,
        proj_type: str = "std",
        proj: str | Projector = "svd",
        matricize: bool = False,
        where: Callable[[LeafInfo], bool] | None = None,
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

class GaLoreAdafactor(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        eps: tuple[float | Tensor, float | Tensor] = (1e-30, 0.001),
        clip_threshold: float | Tensor = 1.0,
        decay_rate: float | Tensor = 0.8,
        b1: float | Tensor = 0.0,
        weight_decay: float | Tensor = 0.0,
        scale_parameter: bool = True,
        rank: int | None = 128,
        update_proj_gap: int = 200,
        scale: float | Tensor = 0.25,
        proj_type: str = "std",
        proj: str | Projector = "svd",
        on_refresh: str = "keep",
        matricize: bool = False,
        where: Callable[[LeafInfo], bool] | None = None,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class APOLLO(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        rank: int | None = 256,
        update_proj_gap: int = 200,
        scale: float = 1.0,
        proj_type: str = "std",
        proj: str | Projector = "random",
        on_refresh: str = "keep",
        matricize: bool = False,
        where: Callable[[LeafInfo], bool] | None = None,
        scale_type: str = "channel",
        correct_bias: bool = True,
        scale_front: bool = False,
        limit_growth: bool = True,
        seed: int | Tensor = 0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class APOLLOMini(APOLLO):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        rank: int | None = 1,
        update_proj_gap: int = 200,
        scale: float = 128.0,
        proj_type: str = "std",
        proj: str | Projector = "random",
        on_refresh: str = "keep",
        matricize: bool = False,
        where: Callable[[LeafInfo], bool] | None = None,
        scale_type: str = "tensor",
        correct_bias: bool = True,
        scale_front: bool = False,
        limit_growth: bool = True,
        seed: int | Tensor = 0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...
