"""Rows of the table: moments whose states go through a lossy codec."""

from __future__ import annotations

import gradtx as gx

from .rows import Row

RANK1 = gx.codecs.rank1()
MATRICES = gx.codecs.rank1(vector_reshape=False)
BITS8 = gx.codecs.blockwise(8, min_size=0)
BITS4 = gx.codecs.blockwise(4, 4, min_size=2)
LATE = {"override_has_an_effect": "eps counts from the fifth update on"}

ROWS = [
    Row("damped_trace", lambda: gx.damped_trace(0.9, 0.5, codec=BITS8), "8bit"),
    Row("ema", lambda: gx.ema(0.9, codec=RANK1), "rank1"),
    Row("ema", lambda: gx.ema(0.9, debias=False, codec=BITS8), "8bit"),
    Row("scale_by_adam", lambda: gx.scale_by_adam(0.8, mu_codec=RANK1, nu_codec=RANK1), "rank1"),
    Row("scale_by_adam", lambda: gx.scale_by_adam(0.8, mu_codec=BITS8, nu_codec=BITS8), "8bit"),
    Row("scale_by_adam", lambda: gx.scale_by_adam(0.8, mu_codec=BITS4, nu_codec=BITS4), "4bit"),
    Row(
        "scale_by_adam",
        lambda: gx.scale_by_adam(0.8, mu_codec=MATRICES, nu_codec=BITS8, amsgrad="raw"),
        "mixed",
        runs="partly",
    ),
    Row(
        "scale_by_adamax",
        lambda: gx.scale_by_adamax(0.8, 0.9, mu_codec=BITS8, nu_codec=BITS8),
        "8bit",
    ),
    Row(
        "scale_by_adan",
        lambda: gx.scale_by_adan(0.8, 0.9, mu_codec=BITS8, nu_codec=RANK1),
        "codecs",
        runs="eager",
    ),
    Row(
        "scale_by_belief",
        lambda: gx.scale_by_belief(0.8, 0.9, eps_root=1e-8, mu_codec=BITS8, nu_codec=BITS8),
        "8bit",
    ),
    Row("scale_by_lion", lambda: gx.scale_by_lion(0.8, 0.9, mu_codec=RANK1), "rank1"),
    Row("scale_by_lion", lambda: gx.scale_by_lion(0.8, 0.9, mu_codec=BITS8), "8bit"),
    Row(
        "scale_by_nadam",
        lambda: gx.scale_by_nadam(0.8, 0.9, mu_codec=RANK1, nu_codec=BITS8),
        "codecs",
        runs="eager",
    ),
    Row(
        "scale_by_novograd",
        lambda: gx.scale_by_novograd(0.8, 0.7, weight_decay=0.1, mu_codec=RANK1),
        "rank1",
    ),
    Row(
        "scale_by_radam",
        lambda: gx.scale_by_radam(0.8, 0.9, threshold=4.0, mu_codec=BITS8, nu_codec=BITS8),
        "8bit",
        fails=LATE,
    ),
    Row("scale_by_rms", lambda: gx.scale_by_rms(initial_scale=0.1, nu_codec=RANK1), "rank1"),
    Row("scale_by_rss", lambda: gx.scale_by_rss(codec=RANK1), "rank1"),
    Row(
        "scale_by_stddev",
        lambda: gx.scale_by_stddev(0.8, 1e-3, mu_codec=BITS8, nu_codec=BITS8),
        "8bit",
    ),
    Row(
        "scale_by_yogi",
        lambda: gx.scale_by_yogi(0.8, 0.9, mu_codec=RANK1, nu_codec=BITS8),
        "codecs",
        runs="eager",
    ),
    Row("trace", lambda: gx.trace(0.9, codec=RANK1), "rank1"),
    Row("trace", lambda: gx.trace(0.9, codec=BITS4), "4bit"),
]
