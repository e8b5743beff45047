"""MicroAdam, in float32 and as the bfloat16 reference rounds."""

from __future__ import annotations

from typing import Any

import torch

import gradtx as gx

from .golden import Tree
from .steppers import Checks, Extra, Hyper, Meta, Steps, fields, options, per_leaf

_STATES = {
    "idx": "indices",
    "val": "values",
    "codes": "error.codes",
    "lo": "error.lo",
    "hi": "error.hi",
}
# Options that fix shapes or structure: name in a file -> ours.
_FIXED = {
    "m": "window",
    "k_init": "density",
    "density": "density",
    "block_size": "block_size",
    "quant_block_size": "quant_block_size",
    "alpha": "alpha",
    "state_dtype": "state_dtype",
    "bias_correction": "bias_correction",
    "rounding": "rounding",
    "include_zero": "include_zero",
    "requantize": "requantize",
    "nonfinite": "nonfinite",
    "seed": "seed",
}


def view(state: Any, params: Tree) -> Checks:
    """The window and the quantised error."""
    return fields(state, params, **_STATES)


def _build(h: Hyper, parity: bool) -> gx.GradientTransformation:
    fixed = {ours: h[name] for name, ours in _FIXED.items() if name in h}
    if "state_dtype" in fixed:
        fixed["state_dtype"] = getattr(torch, fixed["state_dtype"])
    return gx.microadam(parity=parity, **fixed)


def _moving(h: Hyper, t: int) -> dict[str, float]:
    """Values of step ``t`` that are no structure."""
    rates = h.get("lr_per_step") or h.get("lr_schedule")
    lr = (rates[t - 1] if rates else h["lr"]) * h.get("lr_scale", 1.0)
    b1, b2 = h.get("betas", (0.9, 0.999))
    rest = {"eps": h.get("eps", 1e-8), "weight_decay": h.get("weight_decay", 0.0)}
    return {"lr": lr, "b1": b1, "b2": b2, **rest}


def microadam(meta: Meta, extra: Extra) -> Steps:
    parity = meta.get("dtype") == "bfloat16"
    leaves = options({"lr_schedule": meta.get("lr_schedule"), **meta})

    def hyper(t: int) -> dict[str, Any]:
        by_leaf = {leaf: _moving(h, t) for leaf, h in leaves.items()}
        names = next(iter(by_leaf.values()))
        return {name: {leaf: h[name] for leaf, h in by_leaf.items()} for name in names}

    structure = {
        **meta,
        "hyperparameters": {k: v for k, v in meta["hyperparameters"].items() if k in _FIXED},
        "per_leaf": {
            leaf: {k: v for k, v in own.items() if k in _FIXED}
            for leaf, own in (meta.get("per_leaf") or {}).items()
        },
    }
    return Steps(per_leaf(structure, lambda h: _build(h, parity)), hyper, view=view)


SYSTEMS = {"microadam": microadam}
