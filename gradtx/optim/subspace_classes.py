"""Torch optimizer classes that work in a subspace or with a second moment per subset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .. import recipes
from ..core.protocol import GradientTransformation
from ..subspace import Projector, Where
from .recipe_optimizer import RecipeOptimizer
from .torch_classes import switch

# Options of the classes that project matrices.
_SUBSPACE: Mapping[str, Any] = {
    "rank": 128,
    "update_proj_gap": 200,
    "scale": 0.25,
    "proj_type": "std",
    "proj": "svd",
    "on_refresh": "keep",
    "matricize": False,
    "where": None,
}


class LDAdamW(RecipeOptimizer):
    """AdamW in a subspace that moves at every step; the chain is ``gx.ldadamw``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.908, 0.99),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "rank": 16,
        "rho": 0.908,
        "proj_type": "std",
        "proj_method": "power_iteration",
        "error_feedback": True,
        "error_codec": None,
        "matricize": False,
        "where": None,
        "seed": 0,
    }
    recipe = staticmethod(recipes.ldadamw)


class AdamWSN(RecipeOptimizer):
    """AdamW with one second moment per subset of entries; the chain is ``gx.adamw_sn``.

    Steps are smaller than AdamW's by the root of the subset's size.
    """

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.0,
        "subset": -2,
        "correct_bias": True,
    }

    @staticmethod
    def build(betas: Any, subset: int | str | None, correct_bias: bool) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.adamw_sn(b1=switch(betas[0]), subset=subset, correct_bias=correct_bias)


class RMSPropSN(RecipeOptimizer):
    """RMSprop with one second moment per subset of entries; the chain is ``gx.rmsprop_sn``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-2,
        "b2": 0.999,
        "eps": 1e-6,
        "weight_decay": 0.0,
        "subset": "heuristics",
    }
    recipe = staticmethod(recipes.rmsprop_sn)


class AdaGradSN(RecipeOptimizer):
    """AdaGrad with one sum of squares per subset, and momentum; the chain is ``gx.adagrad_sn``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 0.5,
        "momentum": 0.9,
        "eps": 1e-6,
        "weight_decay": 0.0,
        "subset": "heuristics",
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {"momentum": ("b1",)}

    @staticmethod
    def build(momentum: Any, subset: int | str | None) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.adagrad_sn(b1=switch(momentum), subset=subset)


class SNSM(RecipeOptimizer):
    """Any first moment over any second one; the chain is ``gx.snsm``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.0,
        "momentum": "ema",
        "second_moment": "ema",
        "subset": None,
        "rank": None,
        "update_proj_gap": None,
        "proj_type": "svd",
        "on_refresh": "reset",
        "correct_bias": True,
        "parity": False,
        "matricize": False,
        "where": None,
        "seed": 0,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {"betas": ("b1", "b2"), "momentum": ()}

    @staticmethod
    def build(
        betas: Any,
        momentum: str | None,
        second_moment: str | None,
        subset: int | str | None,
        rank: int | None,
        update_proj_gap: int | None,
        proj_type: str | Projector,
        on_refresh: str,
        correct_bias: bool,
        parity: bool,
        matricize: bool,
        where: Where | None,
        seed: int,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.snsm(
            b1=switch(betas[0]),
            b2=switch(betas[1]),
            momentum=momentum,
            second_moment=second_moment,
            subset=subset,
            rank=rank,
            update_proj_gap=update_proj_gap,
            proj_type=proj_type,
            on_refresh=on_refresh,
            correct_bias=correct_bias,
            parity=parity,
            matricize=matricize,
            where=where,
            seed=seed,
        )


class AdamSNSM(RecipeOptimizer):
    """Momentum in a subspace over a second moment per subset; the chain is ``gx.adam_snsm``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.0,
        "rank": 128,
        "update_proj_gap": 200,
        "subset": "heuristics",
        "proj_type": "svd",
        "on_refresh": "reset",
        "correct_bias": True,
        "matricize": False,
        "where": None,
        "seed": 0,
    }
    recipe = staticmethod(recipes.adam_snsm)


class GaLoreAdamW(RecipeOptimizer):
    """AdamW in the gradient's leading subspace; the chain is ``gx.galore_adamw``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.0,
        **_SUBSPACE,
        "correct_bias": True,
    }
    recipe = staticmethod(recipes.galore_adamw)


class GaLoreAdamW8bit(RecipeOptimizer):
    """``GaLoreAdamW`` with 8-bit moments; the chain is ``gx.galore_adamw8bit``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 1e-2,
        **{name: value for name, value in _SUBSPACE.items() if name != "on_refresh"},
        "block_size": 256,
        "min_size": 4096,
    }
    recipe = staticmethod(recipes.galore_adamw8bit)


class GaLoreAdafactor(RecipeOptimizer):
    """Adafactor in the gradient's leading subspace; the chain is ``gx.galore_adafactor``.

    ``eps`` holds what is added to squared gradients, and the smallest scale of a parameter.
    """

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-2,
        "eps": (1e-30, 1e-3),
        "clip_threshold": 1.0,
        "decay_rate": 0.8,
        "b1": 0.0,
        "weight_decay": 0.0,
        "scale_parameter": True,
        **_SUBSPACE,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "eps": ("epsilon", "min_scale"),
        "clip_threshold": ("threshold",),
        "b1": ("decay",),
    }

    @staticmethod
    def build(
        b1: Any,
        scale_parameter: bool,
        rank: int | None,
        update_proj_gap: int,
        proj_type: str,
        proj: str | Projector,
        on_refresh: str,
        matricize: bool,
        where: Where | None,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.galore_adafactor(
            lr=1e-2,
            relative_step=False,
            b1=switch(b1),
            scale_parameter=scale_parameter,
            rank=rank,
            update_proj_gap=update_proj_gap,
            proj_type=proj_type,
            proj=proj,
            on_refresh=on_refresh,
            matricize=matricize,
            where=where,
        )


class APOLLO(RecipeOptimizer):
    """Gradients scaled as Adam would, which a random subspace tells; the chain is ``gx.apollo``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.0,
        **{**_SUBSPACE, "rank": 256, "scale": 1.0, "proj": "random"},
        "scale_type": "channel",
        "correct_bias": True,
        "scale_front": False,
        "limit_growth": True,
        "seed": 0,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {"betas": ("b1", "b2"), "scale": ()}
    recipe = staticmethod(recipes.apollo)


class APOLLOMini(APOLLO):
    """APOLLO with one direction and one factor per matrix; the chain is ``gx.apollo_mini``."""

    signature: ClassVar[Mapping[str, Any]] = {
        **APOLLO.signature,
        "rank": 1,
        "scale": 128.0,
        "scale_type": "tensor",
    }
