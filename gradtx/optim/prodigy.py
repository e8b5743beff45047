"""Torch optimizer classes of the recipes that estimate their own learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from .. import recipes
from ..codecs import Codec
from ..core.protocol import GradientTransformation
from .advanced_classes import _ADEMAMIX, _MASKS, _ROUNDING, _STATE
from .recipe_optimizer import RecipeOptimizer
from .torch_classes import switch

_ESTIMATE: Mapping[str, Any] = {
    "d0": 1e-6,
    "d_coef": 1.0,
    "growth_rate": math.inf,
    "safeguard_warmup": False,
    "slice_p": 11,
    "prodigy_steps": 0,
    "d_limiter": False,
}


class ProdigyOptimizer(RecipeOptimizer):
    """Base of the classes with one estimate d for all parameters.

    ``d`` and ``dlr`` are what to log. Groups may differ in weight decay, and in that some have a
    learning rate of zero: their parameters stand still.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> opt = gx.optim.ProdigyAdv([w], lr=0.5, d0=0.01)
    >>> w.grad = torch.ones(2)
    >>> opt.step()
    >>> opt.d.item(), opt.dlr.item()
    (0.01, 0.005)
    """

    @property
    def d(self) -> Tensor | None:
        """The estimate, a 0-d float64 tensor on the parameters' device; None before a step."""
        return self._shared("d")

    @property
    def dlr(self) -> Tensor | None:
        """The last step's learning rate, d times lr; None before a step."""
        return self._shared("dlr")

    def _shared(self, name: str) -> Tensor | None:
        states = (self.state.get(p) for group in self.param_groups for p in group["params"])
        held = next((state for state in states if state), None)
        return None if held is None else held["scale_by_prodigy"]["shared"][name]

    def _check_step(self) -> None:
        super()._check_step()
        who, groups = type(self).__name__, self.param_groups
        if len(groups) == 1:
            return
        chain = self.transform_of(groups[0])
        if any(self.transform_of(group) != chain for group in groups):
            raise ValueError(
                f"{who}: groups must agree in the options that choose the chain "
                f"({', '.join(self.structural())}): there is one estimate for all"
            )
        rates = {g["lr"] for g in groups if not isinstance(g["lr"], Tensor)} - {0}
        if len(rates) > 1:
            raise ValueError(
                f"{who}: groups must have the same lr, or 0, got {min(rates)} and {max(rates)}"
            )


class Prodigy(ProdigyOptimizer):
    """Adam that estimates its learning rate; the chain is ``gx.prodigy``.

    Every step needs all gradients at once; ``gx.optim.ProdigyAdv`` can step in backward.
    """

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1.0,
        "betas": (0.9, 0.999),
        "beta3": None,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decoupled": True,
        "bias_correction": False,
        "safeguard_warmup": False,
        "d0": 1e-6,
        "d_coef": 1.0,
        "growth_rate": math.inf,
        "slice_p": 1,
    }

    @staticmethod
    def build(
        betas: Any,
        beta3: Any,
        decoupled: bool,
        bias_correction: bool,
        safeguard_warmup: bool,
        d0: float,
        growth_rate: float,
        slice_p: int,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.prodigy(
            b1=switch(betas[0]),
            beta3=None if beta3 is None else 0.9,
            decoupled=decoupled,
            bias_correction=bias_correction,
            safeguard_warmup=safeguard_warmup,
            d0=d0,
            growth_rate=growth_rate,
            slice_p=slice_p,
        )


class ProdigyAdv(ProdigyOptimizer):
    """Prodigy whose features compose; the chain is ``gx.prodigy_adv``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1.0,
        "betas": (0.9, 0.999),
        "beta3": None,
        "eps": 1e-8,
        "weight_decay": 0.0,
        **_STATE,
        **_ROUNDING,
        **_MASKS,
        **_ADEMAMIX,
        "simplified_ademamix": False,
        "alpha_grad": 100.0,
        **_ESTIMATE,
    }
    # The chain's d_coef may be a part of the option's: it is no value to feed.
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {"betas": ("b1", "b2"), "d_coef": ()}

    @staticmethod
    def build(
        betas: Any,
        beta3: Any,
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
        alpha_grad: float,
        d0: float,
        d_coef: float,
        growth_rate: float,
        safeguard_warmup: bool,
        slice_p: int,
        prodigy_steps: int,
        d_limiter: bool,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.prodigy_adv(
            b1=switch(betas[0]),
            beta3=None if beta3 is None else 0.9,
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
            alpha_grad=alpha_grad,
            d0=d0,
            d_coef=d_coef,
            growth_rate=growth_rate,
            safeguard_warmup=safeguard_warmup,
            slice_p=slice_p,
            prodigy_steps=prodigy_steps,
            d_limiter=d_limiter,
        )


class ProdigyLionAdv(ProdigyOptimizer):
    """Lion that estimates its learning rate; the chain is ``gx.prodigy_lion_adv``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1.0,
        "betas": (0.9, 0.99),
        "beta3": None,
        "weight_decay": 0.0,
        **_STATE,
        "factored": True,
        **_ROUNDING,
        "cautious": False,
        "clip_threshold": 0.0,
        **_ESTIMATE,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "betas": ("b1", "b2"),
        "clip_threshold": ("clip_by_leaf_norm.max_norm",),
    }

    @staticmethod
    def build(
        beta3: Any,
        factored: bool,
        vector_reshape: bool,
        codec: Codec | None,
        seed: int,
        orthograd: bool,
        stochastic_rounding: bool,
        cautious: bool,
        clip_threshold: Any,
        d0: float,
        growth_rate: float,
        safeguard_warmup: bool,
        slice_p: int,
        prodigy_steps: int,
        d_limiter: bool,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        return recipes.prodigy_lion_adv(
            beta3=None if beta3 is None else 0.9,
            factored=factored,
            vector_reshape=vector_reshape,
            codec=codec,
            seed=seed,
            orthograd=orthograd,
            stochastic_rounding=stochastic_rounding,
            cautious=cautious,
            clip_threshold=switch(clip_threshold),
            d0=d0,
            growth_rate=growth_rate,
            safeguard_warmup=safeguard_warmup,
            slice_p=slice_p,
            prodigy_steps=prodigy_steps,
            d_limiter=d_limiter,
        )
