"""Rows of the table: fitted Kronecker factors, steps on a sphere."""

from __future__ import annotations

import gradtx as gx

from .rows import Row

NAMED = dict.fromkeys(("every_container", "lone_tensor"), "the noise of a leaf depends on its name")


def kron(form: str, **options: object) -> gx.GradientTransformation:
    options = {"whiten": "momentum", "init_scale": 0.7, "max_skew": 4.0, "damping": 0.1, **options}
    return gx.precondition_by_kron(form, **options)


ROWS = [
    Row("keep_norm", lambda: gx.keep_norm(0.1)),
    Row(
        "precondition_by_kron",
        lambda: gx.chain(
            gx.ema(0.9),
            kron(
                "QUAD", whiten="gradient", beta_l=0.9, memory_save_mode="one_diag", norm="subspace"
            ),
        ),
        "one_diag",
        fails=NAMED,
        runs="partly",
    ),
    Row(
        "precondition_by_kron",
        lambda: kron("EQ", init_scale="leaf", balance=0.1, balance_first=True, remember=False),
        "by_leaf",
        fails=NAMED,
        runs="eager",
    ),
    Row(
        "psgd",
        lambda: gx.psgd(0.1, damping=0.1, max_rms=0.3, max_entry=0.4),
        fails={**NAMED, "override_per_leaf": "damping is in the scale that all leaves share"},
        runs="partly",
    ),
    Row(
        "psgd_kron",
        lambda: gx.psgd_kron(
            0.1, weight_decay=0.1, memory_save_mode="smart_one_diag", probability=1.0
        ),
        fails=NAMED,
        runs="partly",
    ),
]
