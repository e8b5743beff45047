"""Signatures of the classes in psgd_classes.py."""

# Written by python docs/stubs.py.

from typing import Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .recipe_optimizer import RecipeOptimizer

class PSGDKron(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0003,
        b1: float | Tensor = 0.9,
        weight_decay: float | Tensor = 0.0,
        probability: float | None = None,
        max_size: float = 8192,
        min_ndim: int = 2,
        memory_save_mode: str | None = None,
        whiten: str = "momentum",
        precond_lr: float | Tensor = 0.1,
        init_scale: float = 1.0,
        merge_dims: bool = True,
        form: str = "EQ",
        norm: str = "column",
        noise_in_momentum: bool = False,
        seed: int | Tensor = 0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...

class PSGD(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        momentum: float = 0.0,
        weight_decay: float | Tensor = 0.0,
        form: str = "Q0.5EQ1.5",
        precond_lr: float | Tensor = 0.1,
        beta_l: float | Tensor = 0.9,
        damping: float | Tensor = 1e-09,
        whiten: str = "gradient",
        init_scale: float | None = None,
        max_size: float = ...,
        max_skew: float = 1.0,
        max_rms: float | Tensor = 2.0,
        max_entry: float | Tensor = 10.0,
        probability: float | Tensor = 1.0,
        update_first: bool = True,
        norm: str = "column",
        seed: int | Tensor = 0,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...
