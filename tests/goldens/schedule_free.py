"""Schedule-free AdamW and SGD."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import gradtx as gx

from .steppers import Checks, Extra, Meta, Steps, fields, learning_rates, per_leaf

_SAME = ("lr", "eps", "weight_decay", "inner_momentum", "warmup_steps", "r", "weight_lr_power")


def view(state: Any, params: dict[str, Tensor | None]) -> Checks:
    """The plain iterate z, the second moment v and the point of evaluation x."""
    x = gx.schedule_free_eval_params(state, params)
    shown = fields(state, params, z="z", v="nu", m="mu")
    return {**shown, "x": {leaf: p for leaf, p in x.items() if p is not None}}


def adamw(meta: Meta, extra: Extra) -> Steps:
    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        b1, b2 = h.get("betas", (0.9, 0.999))
        rest = {name: h[name] for name in _SAME if name in h}
        return gx.schedule_free_adamw(b1=b1, b2=b2, **rest)

    return Steps(per_leaf(meta, build), learning_rates(meta), view=view)


def sgd(meta: Meta, extra: Extra) -> Steps:
    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        rest = {name: h[name] for name in _SAME if name in h}
        return gx.schedule_free_sgd(b1=h.get("momentum", 0.9), **rest)

    return Steps(per_leaf(meta, build), learning_rates(meta), view=view)


PEERS = {"AdamWScheduleFree": adamw, "SGDScheduleFree": sgd}
