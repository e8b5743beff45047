"""Adam, ADOPT, Simplified AdEMAMix and Lion with their features; their peers; SMMF."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

import gradtx as gx

from .steppers import Checks, Extra, Hyper, Meta, Steps, fields, learning_rates, per_leaf
from .steppers import random_bits as recorded_bits


def view(state: Any, params: dict[str, Tensor | None]) -> Checks:
    """Moments as files record them: dense, or as factors and signs."""
    names = {"m": "mu", "v": "nu", "mslow": "slow"}
    dense = fields(state, params, **names)
    factors = {
        f"{key}_{part}": f"{name}.{field}"
        for key, name in names.items()
        for part, field in (("row", "row"), ("col", "col"), ("sign", "sign"))
    }
    return dense | fields(state, params, **factors)


def steps(meta: Meta, extra: Extra, build: Any) -> Steps:
    """A recipe as a stepper, with the file's schedule and random numbers."""
    return Steps(per_leaf(meta, build), learning_rates(meta), recorded_bits(meta, extra), view)


def common(h: Hyper) -> dict[str, Any]:
    """Arguments that the optimizers with features share."""
    b1, b2 = h["betas"]
    names = {
        "lr": "lr",
        "eps": "eps",
        "weight_decay": "weight_decay",
        "nnmf_factor": "factored",
        "vector_reshape": "vector_reshape",
        "orthogonal_gradient": "orthograd",
        "cautious_mask": "cautious",
        "grams_moment": "grams",
        "grams_signed": "grams_signed",
        "use_atan2": "atan2",
        "use_AdEMAMix": "ademamix",
        "beta3_ema": "b3",
        "alpha": "alpha",
        "t_alpha": "t_alpha",
        "use_bias_correction": "bias_correction",
    }
    out = {ours: h[theirs] for theirs, ours in names.items() if theirs in h}
    return {"b1": b1, "b2": b2, "stochastic_rounding": False, **out}


def simplified(h: Hyper) -> dict[str, Any]:
    """``simplified_ademamix`` switches off what it excludes, as the reference does."""
    if not h.get("Simplified_AdEMAMix"):
        return {}
    off = dict.fromkeys(("ademamix", "cautious", "grams", "atan2"), False)
    return {**off, "simplified_ademamix": True, "alpha_grad": h["alpha_grad"]}


def masks(h: Hyper) -> dict[str, Any]:
    """With both masks on the reference drops ``cautious``."""
    return {"cautious": False} if h.get("grams_moment") and h.get("cautious_mask") else {}


def adam_adv(meta: Meta, extra: Extra) -> Steps:
    return steps(meta, extra, lambda h: gx.adam_adv(**common(h) | masks(h)))


def adopt_adv(meta: Meta, extra: Extra) -> Steps:
    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        # Files name the function, as "t**0.25 on the pre-increment step counter".
        power = re.match(r"t\*\*([0-9.]+)", h.get("clip") or "")
        clip = float(power[1]) if power else None
        return gx.adopt_adv(**common(h) | masks(h) | simplified(h), clip=clip)

    return steps(meta, extra, build)


def simplified_ademamix(meta: Meta, extra: Extra) -> Steps:
    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        names = {"alpha_grad": "alpha_grad", "beta1_warmup": "b1_warmup", "min_beta1": "min_b1"}
        own = {ours: h[theirs] for theirs, ours in names.items() if theirs in h}
        return gx.simplified_ademamix(**common(h) | own)

    return steps(meta, extra, build)


def lion_adv(meta: Meta, extra: Extra) -> Steps:
    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        return gx.lion_adv(**common(h), clip_threshold=h.get("clip_threshold", 0.0))

    return steps(meta, extra, build)


def c_adamw(meta: Meta, extra: Extra) -> Steps:
    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        rest = {k: h[k] for k in ("lr", "eps", "weight_decay") if k in h}
        return gx.c_adamw(
            b1=h["betas"][0],
            b2=h["betas"][1],
            bias_correction=h.get("correct_bias", True),
            **rest,
        )

    return steps(meta, extra, build)


def c_lion(meta: Meta, extra: Extra) -> Steps:
    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        rest = {k: h[k] for k in ("lr", "weight_decay") if k in h}
        return gx.c_lion(b1=h["betas"][0], b2=h["betas"][1], **rest)

    return steps(meta, extra, build)


def smmf(meta: Meta, extra: Extra) -> Steps:
    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        h = dict(h)
        mode = h.pop("weight_decay_mode", "adamw")
        return gx.smmf(**h, decoupled=mode == "adamw")

    return steps(meta, extra, build)


SYSTEMS = {
    "adam_adv": adam_adv,
    "adopt_adv": adopt_adv,
    "simplified_ademamix": simplified_ademamix,
    "lion_adv": lion_adv,
}
PEERS = {"AdamW (cautious)": c_adamw, "Lion (cautious)": c_lion, "SMMF": smmf}
