"""Rows of the table: windows of gradients, M-FAC and GGT."""

from __future__ import annotations

import gradtx as gx

from .rows import Row

ASKED = {"nan_in_nan_out": "it is what one asks for another rule with"}
DAMPED = {"hyperparameters_may_reach_zero": "F has no inverse without damping"}

PARTS = [
    Row("precondition_mfac", lambda: gx.precondition_mfac(3, 0.1), fails=DAMPED, runs="eager"),
    Row(
        "precondition_mfac",
        lambda: gx.chain(
            gx.add_decayed_weights(0.1),
            gx.precondition_mfac(2, 0.1, normalize="count", query="gradient"),
        ),
        "gradient",
        DAMPED,
        runs="partly",
    ),
    Row(
        "precondition_mfac",
        lambda: gx.precondition_mfac(2, 0.1, query="decayed", weight_decay=0.2, fisher="leaf"),
        "decayed",
        DAMPED,
        runs="eager",
    ),
]

RECIPES = [
    Row(
        "mfac", lambda: gx.mfac(0.1, 3, 0.1, weight_decay=0.1), fails=ASKED | DAMPED, runs="partly"
    ),
    Row(
        "mfac",
        lambda: gx.mfac(
            0.1, 3, 0.1, 0.9, 0.1, "sum", "both", nonfinite="ignore", normalize="count"
        ),
        "sum",
        DAMPED,
        runs="partly",
    ),
]

ROWS = [*PARTS, *RECIPES]
