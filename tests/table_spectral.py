"""Rows of the table: orthogonal updates, momentum of low rank, cosine bases."""

from __future__ import annotations

import gradtx as gx

from .rows import Row

NAMED = dict.fromkeys(
    ("every_container", "lone_tensor"), "the first basis of a leaf depends on its name"
)
FIRST = gx.compressors.top_columns(1)
ROWS_FIRST = gx.compressors.top_columns(fraction=0.5, side="left")
POWER = gx.compressors.power_iteration(0.5, iterations=2)
EXACT = {"coefficients": "svd"}


# Functions that rows refer to: at module level, so that the transforms can be pickled.


def matrix_or_other(info: gx.LeafInfo) -> str:
    return "matrix" if info.ndim > 1 else "other"


def three_rows_or_other(info: gx.LeafInfo) -> str:
    return "split" if info.ndim == 2 and info.shape[0] == 3 else "other"


def of_matrices(*members: gx.GradientTransformation) -> gx.GradientTransformation:
    tx = gx.as_matrices(gx.chain(*members))
    return gx.partition({"matrix": tx, "other": gx.scale(2.0)}, matrix_or_other)


def of_three_rows(tx: gx.GradientTransformation) -> gx.GradientTransformation:
    return gx.partition({"split": tx, "other": gx.scale(2.0)}, three_rows_or_other)


PARTS = [
    Row(
        "add_decayed_weights",
        lambda: gx.chain(gx.scale(2.0), gx.add_decayed_weights(0.1, cautious=True)),
        "cautious",
    ),
    Row("as_matrices", lambda: gx.as_matrices(gx.trace(0.9))),
    Row("ema", lambda: gx.ema(0.9, nesterov=True), "nesterov"),
    Row("ema", lambda: gx.ema(0.9, debias=False, nesterov=True), "raw_nesterov"),
    Row("in_basis", lambda: of_matrices(gx.in_basis(gx.scale_by_adam())), runs="partly"),
    Row(
        "in_basis",
        lambda: of_matrices(gx.in_basis(gx.trace(0.9), "dct3", "fft", "std_left")),
        "dct3",
        runs="partly",
    ),
    Row(
        "low_rank_momentum",
        lambda: of_matrices(gx.low_rank_momentum(FIRST, 0.8), gx.densify()),
        runs="partly",
    ),
    Row(
        "low_rank_momentum",
        lambda: of_matrices(gx.low_rank_momentum(POWER), gx.densify()),
        "power",
        fails=NAMED,
        runs="partly",
    ),
    Row(
        "normalize_factor",
        lambda: of_matrices(gx.low_rank_momentum(POWER), gx.normalize_factor(1e-3), gx.densify()),
        fails=NAMED,
        runs="partly",
    ),
    Row("normalize_neurons", lambda: of_matrices(gx.normalize_neurons(eps=1e-3))),
    Row(
        "normalize_neurons",
        lambda: of_matrices(
            gx.low_rank_momentum(ROWS_FIRST), gx.normalize_neurons(eps=1e-3), gx.densify()
        ),
        "chosen",
        runs="partly",
    ),
    Row("orthogonalize", lambda: of_matrices(gx.orthogonalize()), runs="partly"),
    Row(
        "orthogonalize",
        lambda: of_matrices(gx.orthogonalize("aol4", steps=6)),
        "rows",
        runs="partly",
    ),
    Row("orthogonalize", lambda: of_matrices(gx.orthogonalize("svd")), "svd", runs="partly"),
    Row(
        "scale_by_column_adam",
        lambda: of_matrices(
            gx.compress(FIRST), gx.scale_by_column_adam(FIRST, 0.8, 0.9, 1e-3), gx.densify()
        ),
        runs="partly",
    ),
    Row("scale_by_shape", lambda: gx.scale_by_shape("match_rms_adamw"), runs="partly"),
    Row(
        "split_rows",
        lambda: of_three_rows(gx.split_rows(gx.trace(0.9), sizes=(1, 2))),
    ),
]

RECIPES = [
    Row("dct_adamw", lambda: gx.dct_adamw(0.1, rank=1, eps=1e-3), runs="partly"),
    Row(
        "dct_adamw",
        lambda: gx.dct_adamw(0.1, rank=1, eps=1e-3, use_ef=True, ef_bits=8, update_proj_gap=2),
        "feedback",
        runs="partly",
    ),
    Row("dion", lambda: gx.dion(0.1, rank_fraction=0.5), fails=NAMED, runs="partly"),
    Row("dion2", lambda: gx.dion2(0.1), runs="partly"),
    Row("dion2", lambda: gx.dion2(0.1, fraction=0.5, b2=0.9), "neurons", runs="partly"),
    Row("muon", lambda: gx.muon(0.1), runs="partly"),
    Row(
        "muon",
        lambda: gx.muon(
            0.1, average=False, nesterov=False, convolutions="kernel", cautious_decay=True, **EXACT
        ),
        "options",
        runs="partly",
    ),
    Row("normuon", lambda: gx.normuon(0.1), runs="partly"),
    Row("trion", lambda: gx.trion(0.1, rank=1), runs="partly"),
]

ROWS = [*PARTS, *RECIPES]
