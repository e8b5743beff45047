"""Drop-in classes for the optimizers that torch.optim has: same arguments, same numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from .. import recipes
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from .recipe_optimizer import RecipeOptimizer

_ADAM = "lr betas eps weight_decay"


class SGD(
    RecipeOptimizer,
    recipe=recipes.sgd,
    options="lr momentum dampening weight_decay nesterov",
    defaults={"momentum": 0.0},
):
    """Gradient descent with momentum, as torch.optim.SGD; the chain is ``gx.sgd``."""


class Adam(RecipeOptimizer, recipe=recipes.adam, options=f"{_ADAM} amsgrad decoupled_weight_decay"):
    """Adam with L2 weight decay, as torch.optim.Adam; the chain is ``gx.adam``."""

    @classmethod
    def build(
        cls, *, amsgrad: bool = False, decoupled_weight_decay: bool = False, **arguments: Any
    ) -> GradientTransformation:
        """The chain for these arguments.

        Args:
            amsgrad: divide by the largest second moment so far.
            decoupled_weight_decay: decay the parameters, as AdamW does.
            **arguments: of the recipe.
        """
        recipe = recipes.adamw if decoupled_weight_decay else recipes.adam
        return recipe(amsgrad="raw" if amsgrad else None, **arguments)


class AdamW(RecipeOptimizer, recipe=recipes.adamw, options=f"{_ADAM} amsgrad"):
    """Adam with decoupled weight decay, as torch.optim.AdamW; the chain is ``gx.adamw``."""

    @classmethod
    def build(cls, *, amsgrad: bool = False, **arguments: Any) -> GradientTransformation:
        """The chain for these arguments.

        Args:
            amsgrad: divide by the largest second moment so far.
            **arguments: of the recipe.
        """
        return super().build(amsgrad="raw" if amsgrad else None, **arguments)


class NAdam(
    RecipeOptimizer,
    recipe=recipes.nadam,
    options=f"{_ADAM} momentum_decay decoupled_weight_decay",
    defaults={"momentum_decay": 4e-3},
):
    """Adam with scheduled Nesterov momentum, as torch.optim.NAdam; the chain is ``gx.nadam``."""


class RAdam(
    RecipeOptimizer,
    recipe=partial(recipes.radam, raw_eps=True),
    options=f"{_ADAM} decoupled_weight_decay",
):
    """Rectified Adam, as torch.optim.RAdam; the chain is ``gx.radam``."""


class Adamax(RecipeOptimizer, recipe=recipes.adamax, options=_ADAM):
    """Adam with the largest past gradient, as torch.optim.Adamax; the chain is ``gx.adamax``."""


class Adagrad(
    RecipeOptimizer,
    recipe=partial(recipes.adagrad, eps_in_sqrt=False),
    options="lr lr_decay weight_decay initial_accumulator_value eps",
    defaults={"initial_accumulator_value": 0.0, "eps": 1e-10},
):
    """Steps over the root of summed squares, as torch.optim.Adagrad; see ``gx.adagrad``."""


class Adadelta(RecipeOptimizer, recipe=recipes.adadelta):
    """Steps in the parameter's units, as torch.optim.Adadelta; the chain is ``gx.adadelta``."""


class RMSprop(
    RecipeOptimizer,
    recipe=partial(recipes.rmsprop, eps_in_sqrt=False),
    options="lr alpha eps weight_decay momentum centered",
    rename={"alpha": "decay"},
    defaults={"alpha": 0.99, "momentum": 0.0},
):
    """Steps over the root of mean squares, as torch.optim.RMSprop; see ``gx.rmsprop``."""


class Adafactor(
    RecipeOptimizer,
    recipe=recipes.adafactor,
    options="lr beta2_decay eps d weight_decay",
):
    """Factored second moments, as torch.optim.Adafactor; the chain is ``gx.adafactor``."""

    @classmethod
    def build(
        cls,
        *,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: Hyper = 1.0,
        **arguments: Any,
    ) -> GradientTransformation:
        """The chain for these arguments.

        Args:
            beta2_decay: exponent <= 0 of the second moment's decay 1 - t^beta2_decay.
            eps: the floor of the second moment's root, None for the machine epsilon of float32 (in
                which low-precision parameters are updated), and the smallest scale of a parameter.
            d: largest root mean square of the scaled gradient, > 0.
            **arguments: of the recipe.
        """
        if not isinstance(beta2_decay, (int, float)) or not beta2_decay <= 0:
            raise ValueError(f"Adafactor: beta2_decay must be <= 0, got {beta2_decay!r}")
        values = [0.0 if x is None else x for x in eps] if isinstance(eps, tuple) else []
        if len(values) != 2 or not all(isinstance(x, (int, float)) and x >= 0 for x in values):
            raise ValueError(f"Adafactor: eps must be two values >= 0, got {eps!r}")
        return super().build(
            decay_rate=-beta2_decay,
            eps=0.0,
            floor=torch.finfo(torch.float32).eps if eps[0] is None else eps[0],
            min_parameter_scale=eps[1],
            min_dim_size_to_factor=1,
            factored_dims="last",
            relative_step=True,
            clipping_threshold=d,
            **arguments,
        )
