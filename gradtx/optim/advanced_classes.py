"""Torch optimizer classes of the recipes whose features compose, and of low-memory AdamW."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from .. import recipes
from ..codecs import Codec
from ..core.protocol import GradientTransformation
from .recipe_optimizer import RecipeOptimizer
from .torch_classes import switch

# Options that all of these classes have.
_STATE: Mapping[str, Any] = {"factored": False, "vector_reshape": True, "codec": None, "seed": 0}
_ROUNDING: Mapping[str, Any] = {"orthograd": False, "stochastic_rounding": True}
_MASKS: Mapping[str, Any] = {
    "cautious": False,
    "grams": False,
    "grams_signed": True,
    "atan2": False,
}
_ADEMAMIX: Mapping[str, Any] = {"ademamix": False, "b3": 0.9999, "alpha": 5.0, "t_alpha": None}


class AdamAdv(RecipeOptimizer):
    """Adam whose features compose; the chain is ``gx.adam_adv``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        **_STATE,
        **_ROUNDING,
        **_MASKS,
        **_ADEMAMIX,
        "bias_correction": True,
        "bias_on": "step",
    }

    @staticmethod
    def build(
        betas: Any,
        factored: bool,
        vector_reshape: bool,
        codec: Codec | None,
        seed: int,
        orthograd: bool,
        stochastic_rounding: bool,
        cautious: bool,
        grams: bool,
        grams_signed: bool,
        atan2: bool,
        ademamix: bool,
        t_alpha: int | None,
        bias_correction: bool,
        bias_on: str,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.adam_adv(
            b1=switch(betas[0]),
            factored=factored,
            vector_reshape=vector_reshape,
            codec=codec,
            seed=seed,
            orthograd=orthograd,
            stochastic_rounding=stochastic_rounding,
            cautious=cautious,
            grams=grams,
            grams_signed=grams_signed,
            atan2=atan2,
            ademamix=ademamix,
            t_alpha=t_alpha,
            bias_correction=bias_correction,
            bias_on=bias_on,
        )


class AdoptAdv(RecipeOptimizer):
    """ADOPT whose features compose; the chain is ``gx.adopt_adv``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-4,
        "betas": (0.9, 0.9999),
        "eps": 1e-6,
        "weight_decay": 0.0,
        **_STATE,
        **_ROUNDING,
        **_MASKS,
        **_ADEMAMIX,
        "simplified_ademamix": False,
        "alpha_grad": 100.0,
        "clip": 0.25,
    }

    @staticmethod
    def build(
        betas: Any,
        factored: bool,
        vector_reshape: bool,
        codec: Codec | None,
        seed: int,
        orthograd: bool,
        stochastic_rounding: bool,
        cautious: bool,
        grams: bool,
        grams_signed: bool,
        atan2: bool,
        ademamix: bool,
        t_alpha: int | None,
        simplified_ademamix: bool,
        clip: float | Callable[..., Any] | None,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.adopt_adv(
            b1=switch(betas[0]),
            factored=factored,
            vector_reshape=vector_reshape,
            codec=codec,
            seed=seed,
            orthograd=orthograd,
            stochastic_rounding=stochastic_rounding,
            cautious=cautious,
            grams=grams,
            grams_signed=grams_signed,
            atan2=atan2,
            ademamix=ademamix,
            t_alpha=t_alpha,
            simplified_ademamix=simplified_ademamix,
            clip=clip,
        )


class SimplifiedAdEMAMix(RecipeOptimizer):
    """One decayed sum and the newest gradient; the chain is ``gx.simplified_ademamix``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-5,
        "betas": (0.99, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "alpha_grad": 100.0,
        **_STATE,
        **_ROUNDING,
        "b1_warmup": None,
        "min_b1": 0.9,
        "bias_correction": True,
        "numerator_correction": True,
    }

    @staticmethod
    def build(
        factored: bool,
        vector_reshape: bool,
        codec: Codec | None,
        seed: int,
        orthograd: bool,
        stochastic_rounding: bool,
        b1_warmup: int | None,
        min_b1: float,
        bias_correction: bool,
        numerator_correction: bool,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.simplified_ademamix(
            factored=factored,
            vector_reshape=vector_reshape,
            codec=codec,
            seed=seed,
            orthograd=orthograd,
            stochastic_rounding=stochastic_rounding,
            b1_warmup=b1_warmup,
            min_b1=min_b1,
            bias_correction=bias_correction,
            numerator_correction=numerator_correction,
        )


class LionAdv(RecipeOptimizer):
    """Lion with factored state and modifiers; the chain is ``gx.lion_adv``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-4,
        "betas": (0.9, 0.99),
        "weight_decay": 0.0,
        **_STATE,
        "factored": True,
        **_ROUNDING,
        "cautious": False,
        "clip_threshold": 0.0,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "betas": ("b1", "b2"),
        "clip_threshold": ("clip_by_leaf_norm.max_norm",),
    }

    @staticmethod
    def build(
        factored: bool,
        vector_reshape: bool,
        codec: Codec | None,
        seed: int,
        orthograd: bool,
        stochastic_rounding: bool,
        cautious: bool,
        clip_threshold: float,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.lion_adv(
            factored=factored,
            vector_reshape=vector_reshape,
            codec=codec,
            seed=seed,
            orthograd=orthograd,
            stochastic_rounding=stochastic_rounding,
            cautious=cautious,
            clip_threshold=switch(clip_threshold),
        )


class Adopt(RecipeOptimizer):
    """Adam over the second moment of the past; the chain is ``gx.adopt``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.9999),
        "eps": 1e-6,
        "weight_decay": 0.0,
        "clip": 0.25,
    }

    @staticmethod
    def build(betas: Any, clip: float | Callable[..., Any] | None) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.adopt(b1=switch(betas[0]), clip=clip)


class AdEMAMix(RecipeOptimizer):
    """AdamW with a second, slower moment; the chain is ``gx.ademamix``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999, 0.9999),
        "alpha": 5.0,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "t_alpha": None,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {"betas": ("b1", "b2", "b3")}
    recipe = staticmethod(recipes.ademamix)


class SMMF(RecipeOptimizer):
    """Two moments as rank-1 factors with one-bit signs; the chain is ``gx.smmf``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "beta": 0.9,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decay_rate": -0.5,
        "growth_rate": 0.999,
        "vector_reshape": True,
        "vector_rule": "squeezed",
        "decoupled": True,
    }

    @staticmethod
    def build(
        beta: float | None, vector_reshape: bool, vector_rule: Any, decoupled: bool
    ) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.smmf(
            beta=None if beta is None else 0.9,
            vector_reshape=vector_reshape,
            vector_rule=vector_rule,
            decoupled=decoupled,
        )


class CAdamW(RecipeOptimizer):
    """AdamW with a mask on its first moment; the chain is ``gx.c_adamw``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.0,
        "bias_correction": True,
    }
    recipe = staticmethod(recipes.c_adamw)


class CLion(RecipeOptimizer):
    """Lion with a mask on its sign; the chain is ``gx.c_lion``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-4,
        "betas": (0.95, 0.98),
        "weight_decay": 0.0,
    }
    recipe = staticmethod(recipes.c_lion)


class AdamW8bit(RecipeOptimizer):
    """AdamW with 8-bit moments; the chain is ``gx.adamw8bit``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 1e-2,
        "block_size": 256,
        "min_size": 4096,
    }
    recipe = staticmethod(recipes.adamw8bit)


class AdamW4bit(RecipeOptimizer):
    """AdamW with 4-bit moments; the chain is ``gx.adamw4bit``."""

    signature: ClassVar[Mapping[str, Any]] = {**AdamW8bit.signature, "block_size": 128}
    recipe = staticmethod(recipes.adamw4bit)
