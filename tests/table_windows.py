"""Rows of the table: windows of gradients, M-FAC and GGT."""

from __future__ import annotations

import gradtx as gx

from .rows import ONE_VECTOR, PER_ENTRY, Row

ASKED = {"nan_in_nan_out": "it is what one asks for another rule with"}
DAMPED = {"hyperparameters_may_reach_zero": "F has no inverse without damping"}
SPANNED = {"hyperparameters_may_reach_zero": "outside the window's span steps are divided by eps"}

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

SPARSE = gx.compressors.block_top_k(0.5, 4)
LOW_RANK = gx.compressors.low_rank(1, always=True)
RANDOM = dict.fromkeys(
    ("every_container", "lone_tensor"), "the random numbers of a leaf depend on its name"
)
PARTS += [
    Row(
        "precondition_ggt",
        lambda: gx.precondition_ggt(3, 0.8, 0.9, 0.1),
        fails=SPANNED,
        runs="eager",
    ),
    Row(
        "precondition_ggt",
        lambda: gx.precondition_ggt(2, b2=0.9, eps=0.1, decay_basis=False, query="newest"),
        "newest",
        SPANNED,
        runs="eager",
    ),
    Row(
        "precondition_mfac",
        lambda: gx.error_feedback(SPARSE, inner=gx.precondition_mfac(3, 0.1, SPARSE)),
        "sparse",
        DAMPED,
        runs="eager",
    ),
    Row(
        "precondition_mfac",
        lambda: gx.error_feedback(LOW_RANK, inner=gx.precondition_mfac(3, 0.1, LOW_RANK)),
        "low_rank",
        DAMPED | RANDOM,
        runs="eager",
    ),
    Row(
        "precondition_ggt",
        lambda: gx.error_feedback(SPARSE, inner=gx.precondition_ggt(3, compressor=SPARSE, eps=0.1)),
        "sparse",
        SPANNED,
        runs="eager",
    ),
]

RECIPES = [
    Row(
        "mfac", lambda: gx.mfac(0.1, 3, 0.1, weight_decay=0.1), fails=ASKED | DAMPED, runs="partly"
    ),
    Row(
        "ggt",
        lambda: gx.ggt(0.1, 3, eps=0.1, weight_decay=0.1),
        fails=ASKED | SPANNED,
        runs="partly",
    ),
    Row(
        "lowrank_mfac",
        lambda: gx.lowrank_mfac(0.1, 3, 0.1, aggregate=False, weight_decay=0.1),
        fails=ASKED | DAMPED | RANDOM,
        runs="partly",
    ),
    Row(
        "sparse_mfac",
        lambda: gx.sparse_mfac(
            0.1,
            3,
            0.1,
            0.5,
            0.9,
            0.1,
            block_size=4,
            weight_decay_kind="coupled",
            query="gradient",
        ),
        fails=ASKED | DAMPED,
        runs="partly",
    ),
    Row(
        "sparse_mfac",
        lambda: gx.sparse_mfac(0.1, 3, 0.1, 0.5, 0.9, 0.1, block_size=4),
        "newest",
        fails=ASKED | DAMPED,
    ),
    Row(
        "sparse_mfac",
        lambda: gx.sparse_mfac(0.1, 3, 0.1, 0.5, scope="block", block_size=4, nonfinite="ignore"),
        "block",
        {k: v for k, v in ONE_VECTOR.items() if k not in PER_ENTRY} | DAMPED,
        runs="partly",
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
