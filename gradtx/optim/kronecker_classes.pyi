"""Signatures of the classes in kronecker_classes.py."""

# Written by python docs/stubs.py.

from typing import Literal

from torch import Tensor, dtype
from torch.optim.optimizer import ParamsT

from gradtx.codecs import Codec

from .recipe_optimizer import RecipeOptimizer

class SOAP(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.003,
        betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.95),
        shampoo_beta: float | None = 0.95,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01,
        precondition_frequency: int = 10,
        max_precond_dim: int = 10000,
        merge_dims: bool = False,
        precondition_1d: bool = False,
        normalize_grads: bool = False,
        data_format: Literal["channels_first", "channels_last"] = "channels_first",
        correct_bias: bool = True,
        skips_first: bool = True,
        one_sided: bool = False,
        staggered: bool = False,
        packed: bool = False,
        codec: Codec | dtype | None = None,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...
