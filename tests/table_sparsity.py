"""Rows of the table: sparse training."""

from __future__ import annotations

from typing import Any

import gradtx as gx

from .rows import Row

ASKED = {"nan_in_nan_out": "weights that are not kept are moved to zero, whatever the gradient"}


LEAF = gx.sparsity.magnitude_support(0.5, "leaf", "exact")


def everything(info: Any) -> bool:
    """Every leaf is masked."""
    return True


def phases() -> gx.sparsity.PhaseSchedule:
    """One dense step, two sparse, one dense, then sparse."""
    return gx.sparsity.phases(("dense", 1), ("sparse", 2), ("dense", 1), ("sparse", 9))


ROWS = [
    Row(
        "acdc",
        lambda: gx.acdc(gx.sgd(0.1, 0.9), phases(), 0.5, prunable=everything),
        fails=ASKED | {"absent_leaf": "masks are chosen among all weights, updated or not"},
    ),
    Row(
        "acdc",
        lambda: gx.acdc(gx.adam(0.1), phases(), LEAF, "all", prunable=everything),
        "all",
        ASKED | {"schedule": "counts of what is started anew start anew"},
    ),
    Row(
        "acdc",
        lambda: gx.acdc(gx.adamw8bit(0.1), phases(), LEAF, prunable=everything, packed=False),
        "bytes",
        ASKED,
    ),
    Row(
        "acdc",
        lambda: gx.acdc(gx.adam(0.1), phases(), LEAF, prunable=everything, mask_state=True),
        "moments",
        ASKED,
    ),
    Row("acdc_sgd", lambda: gx.acdc_sgd(0.1, phases(), LEAF, weight_decay=0.1)),
    Row("add_adaptive_decayed_weights", lambda: gx.chain(gx.add_adaptive_decayed_weights(0.1))),
    Row(
        "hard_threshold",
        lambda: gx.chain(gx.scale(-0.1), gx.hard_threshold(5)),
        fails={"override_per_leaf": "what one leaf keeps depends on the others"},
        runs="partly",
    ),
    Row("keep_params_sparse", lambda: gx.chain(gx.scale(-0.1), gx.keep_params_sparse(everything))),
    Row(
        "reset_on",
        lambda: gx.chain(gx.sparsity.reset_on(gx.scale_by_adam(), phases()), gx.scale(-0.1)),
    ),
    Row(
        "reset_on",
        lambda: gx.chain(gx.sparsity.reset_on(gx.trace(0.9), phases(), "prune", "all")),
        "all",
    ),
    Row("mask_updates", lambda: gx.mask_updates(everything)),
]
