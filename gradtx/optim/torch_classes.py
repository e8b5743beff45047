"""Drop-in classes for the optimizers that torch.optim has: same arguments, same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from .. import recipes
from ..core.protocol import GradientTransformation
from .recipe_optimizer import RecipeOptimizer

_ADAM: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}


def switch(momentum: Any) -> float:
    """Whether there is a momentum member; its value comes from the group."""
    return 0.9 if isinstance(momentum, torch.Tensor) or momentum != 0 else 0.0


class SGD(RecipeOptimizer):
    """Gradient descent with momentum, as torch.optim.SGD; the chain is ``gx.sgd``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "momentum": 0.0,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
    }

    @staticmethod
    def build(momentum: Any, dampening: float, nesterov: bool) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.sgd(momentum=switch(momentum), dampening=dampening, nesterov=nesterov)


class Adam(RecipeOptimizer):
    """Adam with L2 weight decay, as torch.optim.Adam; the chain is ``gx.adam``."""

    signature: ClassVar[Mapping[str, Any]] = {
        **_ADAM,
        "amsgrad": False,
        "decoupled_weight_decay": False,
    }

    @staticmethod
    def build(amsgrad: bool, decoupled_weight_decay: bool) -> GradientTransformation:
        """The chain for these structural options."""
        recipe = recipes.adamw if decoupled_weight_decay else recipes.adam
        return recipe(amsgrad="raw" if amsgrad else None)


class AdamW(RecipeOptimizer):
    """Adam with decoupled weight decay, as torch.optim.AdamW; the chain is ``gx.adamw``."""

    signature: ClassVar[Mapping[str, Any]] = {**_ADAM, "weight_decay": 1e-2, "amsgrad": False}

    @staticmethod
    def build(amsgrad: bool) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.adamw(amsgrad="raw" if amsgrad else None)


class NAdam(RecipeOptimizer):
    """Adam with scheduled Nesterov momentum, as torch.optim.NAdam; the chain is ``gx.nadam``."""

    signature: ClassVar[Mapping[str, Any]] = {
        **_ADAM,
        "lr": 2e-3,
        "momentum_decay": 4e-3,
        "decoupled_weight_decay": False,
    }

    @staticmethod
    def build(decoupled_weight_decay: bool) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.nadam(momentum_decay=4e-3, decoupled_weight_decay=decoupled_weight_decay)


class RAdam(RecipeOptimizer):
    """Rectified Adam, as torch.optim.RAdam; the chain is ``gx.radam``."""

    signature: ClassVar[Mapping[str, Any]] = {**_ADAM, "decoupled_weight_decay": False}

    @staticmethod
    def build(decoupled_weight_decay: bool) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.radam(raw_eps=True, decoupled_weight_decay=decoupled_weight_decay)


class Adamax(RecipeOptimizer):
    """Adam with the largest past gradient, as torch.optim.Adamax; the chain is ``gx.adamax``."""

    signature: ClassVar[Mapping[str, Any]] = {**_ADAM, "lr": 2e-3}

    @staticmethod
    def build() -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.adamax()


class Adagrad(RecipeOptimizer):
    """Steps over the root of summed squares, as torch.optim.Adagrad; see ``gx.adagrad``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-2,
        "lr_decay": 0.0,
        "weight_decay": 0.0,
        "initial_accumulator_value": 0.0,
        "eps": 1e-10,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {"lr_decay": ("rate",)}

    @staticmethod
    def build(initial_accumulator_value: float) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.adagrad(
            initial_accumulator_value=initial_accumulator_value, eps_in_sqrt=False
        )


class Adadelta(RecipeOptimizer):
    """Steps in the parameter's units, as torch.optim.Adadelta; the chain is ``gx.adadelta``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1.0,
        "rho": 0.9,
        "eps": 1e-6,
        "weight_decay": 0.0,
    }

    @staticmethod
    def build() -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.adadelta()


class RMSprop(RecipeOptimizer):
    """Steps over the root of mean squares, as torch.optim.RMSprop; see ``gx.rmsprop``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-2,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "centered": False,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "alpha": ("scale_by_rms.decay|scale_by_stddev.decay",),
        "momentum": ("trace.decay",),
    }

    @staticmethod
    def build(momentum: Any, centered: bool) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.rmsprop(momentum=switch(momentum), centered=centered, eps_in_sqrt=False)


class Adafactor(RecipeOptimizer):
    """Factored second moments, as torch.optim.Adafactor; the chain is ``gx.adafactor``.

    ``eps`` holds the floor of the second moment's root, None for the machine epsilon of float32
    (in which low-precision parameters are updated), and the smallest scale of a parameter.
    """

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-2,
        "beta2_decay": -0.8,
        "eps": (None, 1e-3),
        "d": 1.0,
        "weight_decay": 0.0,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {"d": ("threshold",), "eps": ()}

    @staticmethod
    def build(beta2_decay: float, eps: tuple[float | None, float]) -> GradientTransformation:
        """The chain for these structural options."""
        if not isinstance(beta2_decay, (int, float)) or not beta2_decay <= 0:
            raise ValueError(f"Adafactor: beta2_decay must be <= 0, got {beta2_decay!r}")
        values = [0.0 if x is None else x for x in eps] if isinstance(eps, tuple) else []
        if len(values) != 2 or not all(isinstance(x, (int, float)) and x >= 0 for x in values):
            raise ValueError(f"Adafactor: eps must be two values >= 0, got {eps!r}")
        return recipes.adafactor(
            decay_rate=-beta2_decay,
            eps=0.0,
            floor=torch.finfo(torch.float32).eps if eps[0] is None else eps[0],
            min_parameter_scale=eps[1],
            min_dim_size_to_factor=1,
            factored_dims="last",
            relative_step=True,
        )
