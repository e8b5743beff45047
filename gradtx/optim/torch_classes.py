"""Drop-in classes for the optimizers that torch.optim has: same arguments, same numbers."""

from __future__ import annotations

from .. import recipes
from ..core.protocol import GradientTransformation
from .recipe_optimizer import RecipeOptimizer

_BETAS = (0.9, 0.999)


class SGD(RecipeOptimizer):
    """Gradient descent with momentum, as torch.optim.SGD; see ``gx.sgd``."""

    signature = {
        "lr": 1e-3,
        "momentum": 0,
        "dampening": 0,
        "weight_decay": 0,
        "nesterov": False,
    }
    feeds = {"momentum": ("decay",)}

    @staticmethod
    def build(momentum: float, dampening: float, nesterov: bool) -> GradientTransformation:
        if nesterov and (not momentum or dampening):
            raise ValueError("SGD: nesterov needs a momentum and no dampening")
        return recipes.sgd(
            None, momentum=0.9 if momentum else 0.0, dampening=dampening, nesterov=nesterov
        )
