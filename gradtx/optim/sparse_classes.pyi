"""Signatures of the classes in sparse_classes.py."""

# Written by python docs/stubs.py.

from typing import Literal

from torch import Tensor
from torch.optim.optimizer import ParamsT

from gradtx.sparsity import PhaseSchedule, Support

from .recipe_optimizer import RecipeOptimizer

class ACDC(RecipeOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.1,
        schedule: PhaseSchedule = ...,
        support: Support | float = 0.9,
        momentum: float | Tensor | None = 0.9,
        nesterov: bool = False,
        weight_decay: float | Tensor = 0.0,
        reset: Literal["first_moments", "all", "nothing"] = "first_moments",
        sparse: bool = True,
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
    ) -> None: ...
