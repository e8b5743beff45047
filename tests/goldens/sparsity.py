"""Sparse training: AC/DC in both published forms, OBS pruning, iterative OBS."""

from __future__ import annotations

from typing import Any

import gradtx as gx

from .golden import Tree
from .steppers import Checks, Extra, Hyper, Meta, Steps


def _masks(state: Any, params: Tree) -> Checks:
    """The masks, ones for leaves without."""
    found = gx.sparsity.masks_of(state, params)
    return {"mask": {k: (p == p) if found[k] is None else found[k] for k, p in params.items()}}


def _published(h: Hyper) -> gx.GradientTransformation:
    per_epoch = h["steps_per_epoch"]
    schedule = gx.sparsity.phase_schedule(h["prune_epochs"], h["restore_epochs"], per_epoch)
    if h["mode"] == "nm":
        support: Any = gx.sparsity.nm_support(h["N"], h["M"])
    else:
        scope = "global" if h["mode"] == "global" else "leaf"
        support = gx.sparsity.magnitude_support(h["sparsity"], scope, h.get("count", "reference"))
    sgd = gx.sgd(
        h["lr"],
        h["momentum"] or None,
        h["nesterov"],
        h["weight_decay"],
        dampening=h.get("dampening", 0),
    )
    reset = "first_moments" if h["reset_momentum"] else "nothing"
    named = set(h["prunable"])
    return gx.acdc(sgd, schedule, support, reset, lambda info: info.name in named)


def _layerwise(h: Hyper) -> gx.GradientTransformation:
    schedule = gx.sparsity.layerwise_schedule(
        h["total_epochs"],
        h["warmup_epochs"],
        h["phase_length_epochs"],
        h["finetuning_epochs"],
        h["steps_per_epoch"],
    )
    decays = lambda info: info.ndim != 1  # noqa: E731
    decay = (
        gx.add_adaptive_decayed_weights(h["weight_decay"], mask=decays)
        if h["wd_type"] == "awd"
        else gx.add_decayed_weights(h["weight_decay"], mask=decays)
    )
    inner = gx.chain(gx.trace(h["momentum"]), decay, gx.scale_by_learning_rate(h["lr"]))
    support = gx.sparsity.magnitude_support(None, "leaf", "floor", h["density"])
    return gx.acdc(inner, schedule, support)


def acdc(meta: Meta, extra: Extra) -> Steps:
    h = meta["hyperparameters"]
    return Steps((_layerwise if "density" in h else _published)(h), view=_masks)


SYSTEMS = {"acdc": acdc}
