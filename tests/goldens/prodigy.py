"""Prodigy: on Adam, on Lion, and the peer."""

from __future__ import annotations

from typing import Any

import gradtx as gx

from .golden import Tree
from .steppers import Checks, Extra, Hyper, Meta, Steps, fields, learning_rates, random_bits, values

_FIELDS = {"m": "mu", "mslow": "slow", "v": "nu"}
_STATES = _FIELDS | {
    f"{key}_{part}": f"{name}.{part}"
    for key, name in _FIELDS.items()
    for part in ("row", "col", "sign")
}


def _view(state: Any, params: Tree) -> Checks:
    checks = fields(state, params, **_STATES)
    kept = {"prodigy_s": "s", "prodigy_p0": "p0"}
    for key, leaves in fields(state, params, **kept).items():
        checks[key] = {leaf: x.reshape(-1) for leaf, x in leaves.items()}
    for key, name in {"d": "d", "d_max": "d_max", "d_numerator": "d_numerator"}.items():
        checks[key] = {"_global": gx.tree.get(state, name)}
    return checks


_DEFAULTS: dict[str, Any] = {
    "beta3": None,
    "d0": 1e-6,
    "d_coef": 1.0,
    "growth_rate": "inf",
    "safeguard_warmup": False,
    "slice_p": 11,
    "prodigy_steps": 0,
    "d_limiter": False,
    "grams_signed": True,
}
# What leaves may have their own value of, by the name of the file; betas are two.
_OF_LEAVES = {"lr": "lr", "eps": "eps", "weight_decay": "weight_decay"}
_OF_LEAVES |= {"beta3_ema": "b3", "alpha": "alpha"}


def _estimate(h: Hyper) -> dict[str, Any]:
    """What all systems hand to the estimate."""
    beta1, beta2 = h["betas"]
    return {
        "b1": beta1,
        "b2": beta2,
        "growth_rate": float(h["growth_rate"]),
        **{k: h[k] for k in ("lr", "beta3", "weight_decay", "d0", "d_coef", "slice_p")},
        "safeguard_warmup": h["safeguard_warmup"],
    }


def _steps(transform: gx.GradientTransformation, meta: Meta, extra: Extra) -> Steps:
    fixed: dict[str, Any] = {}
    for name in {name for own in (meta.get("per_leaf") or {}).values() for name in own}:
        value = values(meta, name)[name]
        if name == "betas":
            for i, b in enumerate(("b1", "b2")):
                fixed[b] = {leaf: pair[i] for leaf, pair in value.items()}
        else:
            fixed[_OF_LEAVES[name]] = value
    rates = learning_rates(meta)
    hyper = (lambda t: {**fixed, **(rates(t) if rates else {})}) if fixed or rates else None
    return Steps(transform, hyper, random_bits(meta, extra), _view)


def prodigy_adv(meta: Meta, extra: Extra) -> Steps:
    """``gx.prodigy_adv``; the reference ignores what it cannot combine, the library refuses it."""
    h = {**_DEFAULTS, **meta["hyperparameters"]}
    simplified = h["Simplified_AdEMAMix"]
    transform = gx.prodigy_adv(
        **_estimate(h),
        eps=h["eps"],
        factored=h["nnmf_factor"],
        ademamix=h["use_AdEMAMix"] and not simplified,
        simplified_ademamix=simplified,
        orthograd=h["orthogonal_gradient"],
        grams=h["grams_moment"] and not simplified,
        cautious=h["cautious_mask"] and not h["grams_moment"] and not simplified,
        atan2=h["use_atan2"] and not simplified,
        stochastic_rounding=False,
        prodigy_steps=h["prodigy_steps"],
        d_limiter=h["d_limiter"],
        b3=h["beta3_ema"],
        alpha=h["alpha"],
        t_alpha=h["t_alpha"],
        alpha_grad=h["alpha_grad"],
        vector_reshape=h["vector_reshape"],
        grams_signed=h["grams_signed"],
    )
    return _steps(transform, meta, extra)


def prodigy_lion_adv(meta: Meta, extra: Extra) -> Steps:
    """``gx.prodigy_lion_adv``."""
    h = {**_DEFAULTS, **meta["hyperparameters"]}
    transform = gx.prodigy_lion_adv(
        **_estimate(h),
        factored=h["nnmf_factor"],
        orthograd=h["orthogonal_gradient"],
        cautious=h["cautious_mask"],
        stochastic_rounding=False,
        clip_threshold=h["clip_threshold"],
        prodigy_steps=h["prodigy_steps"],
        d_limiter=h["d_limiter"],
        vector_reshape=h["vector_reshape"],
    )
    return _steps(transform, meta, extra)


def prodigyopt(meta: Meta, extra: Extra) -> Steps:
    """``gx.prodigy``."""
    h = {**_DEFAULTS, "slice_p": 1, **meta["hyperparameters"]}
    transform = gx.prodigy(
        **_estimate(h),
        eps=h["eps"],
        decoupled=h["decouple"],
        bias_correction=h["use_bias_correction"],
    )
    return _steps(transform, meta, extra)


SYSTEMS = {"prodigy_adv": prodigy_adv, "prodigy_lion_adv": prodigy_lion_adv}
PEERS = {"Prodigy": prodigyopt}
