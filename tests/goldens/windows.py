"""M-FAC and GGT: dense, sparse and low-rank windows."""

from __future__ import annotations

from typing import Any

import gradtx as gx

from .golden import Tree
from .steppers import Checks, Extra, Hyper, Meta, Steps, learning_rates


def _view(state: Any, params: Tree) -> Checks:
    """The inner products of the rows."""
    return {"gram": {"all": gx.tree.get(state, "gram")}}


def _decay_kind(h: Hyper) -> str:
    """The name of the kind of weight decay, however a file gives it."""
    kind, inside = str(h.get("weight_decay_kind", "none")), h.get("wd_type", "wd")
    if inside != "wd":
        return inside
    if kind.startswith("decoupled"):
        return "decoupled_lr" if "lr*wd" in kind or kind == "decoupled_lr" else "decoupled"
    return kind if kind in ("reg", "both") else "coupled"


def _common(h: Hyper) -> dict[str, Any]:
    """The arguments that all recipes of M-FAC have."""
    return {
        "lr": h["lr"],
        "window": h["m"],
        "damping": h["damp"],
        "momentum": h.get("momentum", 0.0),
        "weight_decay": h.get("weight_decay", 0.0),
        "momentum_kind": "sum" if str(h.get("momentum_kind")).startswith("sum") else "ema",
        "weight_decay_kind": _decay_kind(h),
    }


def mfac(meta: Meta, extra: Extra) -> Steps:
    h = meta["hyperparameters"]
    tx = gx.mfac(**_common(h), freeze_zeros=bool(h.get("sparse")))
    return Steps(tx, learning_rates(meta), view=_view)


SYSTEMS = {"mfac": mfac}
