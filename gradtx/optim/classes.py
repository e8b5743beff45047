"""Torch optimizer classes for the recipes that torch.optim does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .. import recipes
from ..core.protocol import GradientTransformation
from .recipe_optimizer import RecipeOptimizer


class AMSGrad(RecipeOptimizer):
    """Adam over the largest corrected second moment; the chain is ``gx.amsgrad``.

    ``gx.optim.Adam(amsgrad=True)`` takes the largest raw second moment, as torch.optim does.
    """

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-08,
        "weight_decay": 0.0,
    }

    @staticmethod
    def build() -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.amsgrad()


class AdaBelief(RecipeOptimizer):
    """Adam over the variance around the momentum; the chain is ``gx.adabelief``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-16,
        "weight_decay": 0.0,
    }

    @staticmethod
    def build() -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.adabelief()


class Yogi(RecipeOptimizer):
    """Adam with an additive second moment; the chain is ``gx.yogi``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-2,
        "betas": (0.9, 0.999),
        "eps": 1e-3,
        "weight_decay": 0.0,
    }

    @staticmethod
    def build() -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.yogi()


class NovoGrad(RecipeOptimizer):
    """One second moment per leaf; the chain is ``gx.novograd``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-2,
        "betas": (0.9, 0.25),
        "eps": 1e-6,
        "weight_decay": 0.0,
    }

    @staticmethod
    def build() -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.novograd()


class Adan(RecipeOptimizer):
    """Adam with an average of gradient differences; the chain is ``gx.adan``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.98, 0.92, 0.99),
        "eps": 1e-08,
        "weight_decay": 0.0,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {"betas": ("b1", "b2", "b3")}

    @staticmethod
    def build() -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.adan()


class Lion(RecipeOptimizer):
    """The sign of an interpolated momentum; the chain is ``gx.lion``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-4,
        "betas": (0.9, 0.99),
        "weight_decay": 1e-3,
    }

    @staticmethod
    def build() -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.lion()


class SignSGD(RecipeOptimizer):
    """The sign of the gradient; the chain is ``gx.signsgd``."""

    signature: ClassVar[Mapping[str, Any]] = {"lr": 1e-3, "weight_decay": 0.0}

    @staticmethod
    def build() -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.signsgd()


class Signum(RecipeOptimizer):
    """The sign of the momentum; the chain is ``gx.signum``."""

    signature: ClassVar[Mapping[str, Any]] = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.0}

    @staticmethod
    def build() -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.signum()


class SM3(RecipeOptimizer):
    """Second moments per row and column; the chain is ``gx.sm3``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 0.1,
        "momentum": 0.9,
        "eps": 1e-8,
        "weight_decay": 0.0,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {"momentum": ("b1",)}

    @staticmethod
    def build() -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.sm3()


class LAMB(RecipeOptimizer):
    """Adam with a step per leaf proportional to its norm; the chain is ``gx.lamb``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.0,
    }

    @staticmethod
    def build() -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.lamb()


class LARS(RecipeOptimizer):
    """Momentum with a step per leaf proportional to its norm; the chain is ``gx.lars``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "trust_coefficient": 1e-3,
        "eps": 0.0,
        "nesterov": False,
    }

    @staticmethod
    def build(nesterov: bool) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.lars(nesterov=nesterov)


class MARSAdamW(RecipeOptimizer):
    """AdamW on variance-reduced gradients; the chain is ``gx.mars_adamw``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 3e-3,
        "betas": (0.95, 0.99),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "gamma": 0.025,
        "max_norm": 1.0,
    }

    @staticmethod
    def build() -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.mars_adamw()
