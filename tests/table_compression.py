"""Rows of the table: compression, error feedback, sliding windows, MicroAdam."""

from __future__ import annotations

import torch

import gradtx as gx
import gradtx_cuda

from .rows import PER_ENTRY, Row

NAMED = dict.fromkeys(
    ("every_container", "lone_tensor"), "the random numbers of a leaf depend on its name"
)
ROUNDS = {"bf16": "it rounds as the parameters do"}
ASKED = {"nan_in_nan_out": "it is what one asks for another rule with"}
NOT_KEPT = {"nan_in_nan_out": "entries are kept whatever they are"}
HALF = gx.compressors.block_top_k(0.5, 4)


def coarse_error(**options: object) -> gx.codecs.Codec:
    return gx.codecs.affine(4, 2, stats_dtype=torch.bfloat16, **options)


def window(**options: object) -> gx.GradientTransformation:
    return gx.sliding_window_adam(0.8, 0.9, 3, HALF, eps=1e-3, **options)


PARTS = [
    Row(
        "apply_if_leaf_finite",
        lambda: gx.apply_if_leaf_finite(gx.scale_by_adam()),
        fails=ASKED,
        runs="eager",
    ),
    Row(
        "apply_if_leaf_finite",
        lambda: gx.apply_if_leaf_finite(gx.trace(0.9), "skip"),
        "skip",
        ASKED,
    ),
    Row(
        "compress",
        lambda: gx.chain(gx.compress(HALF), gx.scale(2.0), gx.densify()),
        fails=dict.fromkeys(PER_ENTRY, "entries of a compressed update are others"),
        runs="eager",
    ),
    Row(
        "compress",
        lambda: gx.chain(gx.compress(gx.compressors.random_k(0.5, unbiased=True)), gx.densify()),
        "random",
        fails=NAMED | NOT_KEPT,
        runs="eager",
    ),
    Row("compress", lambda: gx.compress(gx.compressors.threshold(0.5)), "threshold"),
    Row(
        "compress",
        lambda: gx.chain(gx.compress(gx.distributed.quantized(HALF)), gx.densify()),
        "quantized",
        runs="eager",
    ),
    Row("compress", lambda: gx.compress(gx.compressors.dct_top_k(2, 4)), "dct", runs="eager"),
    Row("compress", lambda: gx.compress(gx.compressors.identity()), "identity"),
    Row(
        "decay_first",
        lambda: gx.decay_first(gx.scale_by_learning_rate(0.1), 0.1, 0.2),
        fails=ROUNDS,
    ),
    Row(
        "error_feedback",
        lambda: gx.chain(gx.error_feedback(gx.compressors.top_k(0.3)), gx.densify()),
        runs="eager",
    ),
    Row(
        "error_feedback",
        lambda: gx.chain(
            gx.error_feedback(gx.compressors.top_k(k=1), coarse_error()),
            gx.densify(),
            gx.scale_by_adam(0.8, 0.9),
        ),
        "top_k_adam",
        runs="eager",
    ),
    Row(
        "error_feedback",
        lambda: gx.chain(gx.trace(0.9), gx.error_feedback(gx.compressors.sign(2), torch.bfloat16)),
        "sign_momentum",
        runs="partly",
    ),
    Row(
        "error_feedback",
        lambda: gx.chain(gx.error_feedback(gx.compressors.low_rank(1)), gx.densify()),
        "low_rank",
        fails=NAMED,
        runs="eager",
    ),
    Row(
        "error_feedback",
        lambda: gx.error_feedback(
            HALF, coarse_error(rounding="stochastic"), window(), 0.2, requantize="scale"
        ),
        "stochastic",
        fails=NAMED,
        runs="eager",
    ),
    Row(
        "round_updates",
        lambda: gx.chain(gx.scale(0.3), gx.round_updates(), gx.scale(2.0)),
        fails=ROUNDS,
    ),
    Row("sliding_window_adam", lambda: gx.chain(gx.compress(HALF), window()), runs="eager"),
    Row(
        "sliding_window_adam",
        lambda: gx.sliding_window_adam(window=2, eps=1e-3),
        "dense",
        runs="eager",
    ),
    Row("sliding_window_moments", lambda: gx.sliding_window_moments(0.8, 0.9, 3), runs="eager"),
    Row(
        "sliding_window_moments",
        lambda: gx.chain(
            gx.compress(HALF),
            gx.sliding_window_moments(
                0.8, 0.9, 3, HALF, bias_correction="window", state_dtype=torch.float32
            ),
        ),
        "window",
        runs="eager",
    ),
]

SMALL = {"density": 0.5, "window": 3, "block_size": 4, "quant_block_size": 2}

RECIPES = [
    Row(
        "microadam",
        lambda: gx.microadam(0.1, weight_decay=0.1, **SMALL),
        fails=ASKED,
        runs="fused" if gradtx_cuda.status().active else "eager",
    ),
    Row(
        "microadam",
        lambda: gx.microadam(0.1, alpha=0.2, include_zero=True, **SMALL),
        "release",
        ASKED,
        runs="eager",
    ),
    Row(
        "microadam",
        lambda: gx.microadam(0.1, alpha=-2, nonfinite="skip", **SMALL),
        "feed",
        ASKED,
        runs="eager",
    ),
    Row(
        "microadam",
        lambda: gx.microadam(0.1, alpha=0.2, parity=True, **SMALL),
        "parity",
        ROUNDS | ASKED,
        runs="eager",
    ),
]

ROWS = [*PARTS, *RECIPES]
