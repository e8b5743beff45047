"""Rows of the table: preconditioners made of Kronecker factors."""

from __future__ import annotations

import gradtx as gx

from .rows import Row

CODEC = gx.codecs.dynamic8(min_size=0)
CODES = dict.fromkeys(("compile", "vmap"), "a code is another one where rotations round apart")

PARTS = [
    Row("in_eigenbasis", lambda: gx.in_eigenbasis(gx.scale_by_adam(eps=1e-3)), runs="partly"),
    Row(
        "in_eigenbasis",
        lambda: gx.in_eigenbasis(
            gx.trace(0.9),
            gx.kronecker_factors(0.9, bias_correction=True, packed=True),
            gx.eigenbasis(every=2, when="before", refresh="eigh", start=1),
            cut=gx.blocks(2),
        ),
        "before",
        runs="eager",
    ),
    Row("normalize_by_block_rms", lambda: gx.normalize_by_block_rms(1e-3)),
    Row(
        "on_gradients",
        lambda: gx.quotient(gx.scale(2.0), gx.on_gradients(gx.root_second_moment(0.9, 1e-3))),
    ),
]

RECIPES = [
    Row("soap", lambda: gx.soap(0.1, eps=1e-3, precondition_frequency=2), runs="partly"),
    Row(
        "soap",
        lambda: gx.soap(
            0.1,
            eps=1e-3,
            precondition_frequency=2,
            skips_first=False,
            normalize_grads=True,
        ),
        "current",
        runs="partly",
    ),
    Row(
        "soap",
        lambda: gx.soap(0.1, eps=1e-3, precondition_frequency=2, codec=CODEC),
        "codec",
        fails=CODES,
        runs="partly",
    ),
]

ROWS = [*PARTS, *RECIPES]
