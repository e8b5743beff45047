"""Rows of the table: preconditioners made of Kronecker factors."""

from __future__ import annotations

import gradtx as gx

from .rows import Row

CODEC = gx.codecs.dynamic8(min_size=0)
CODES = dict.fromkeys(("compile", "vmap"), "a code is another one where rotations round apart")

ASKED = {"nan_in_nan_out": "it is what one asks for another rule with"}
FAILURES = {"counters_stay_at_their_end": "a count of failures at its end is an error"}

FACTORS = gx.kronecker_factors(0.9, bias_correction=True, one_dim=True)

PARTS = [
    Row("add_corrected_decay", lambda: gx.add_corrected_decay(0.1, weight_decay=0.1)),
    Row(
        "grafted",
        lambda: gx.grafted(gx.scale_by_sign(), gx.trace(0.9), gx.blocks(2), start=2),
        runs="eager",
    ),
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
    Row(
        "scale_by_inverse_roots",
        lambda: gx.scale_by_inverse_roots(FACTORS, eps=1e-3, every=2, cut=gx.blocks(2)),
        runs="eager",
    ),
    Row(
        "scale_by_inverse_roots",
        lambda: gx.chain(
            gx.trace(0.9),
            gx.scale_by_inverse_roots(
                gx.kronecker_factors(0.9, "kl", packed=True),
                gx.inverse_roots.coupled_newton(8, stop="never"),
                0.1,
                start=2,
                trace_scaling=0.5,
                source="gradients",
            ),
        ),
        "newton",
        runs="partly",
    ),
    Row("second_moment_power", lambda: gx.second_moment_power(0.9, 1e-3, 0.3, debias=True)),
    Row(
        "second_moment_power",
        lambda: gx.second_moment_power(1.0, 1e-3, average=False),
        "sum",
    ),
    Row("two_decay_ema", lambda: gx.two_decay_ema(0.9, 0.8)),
    Row("normalize_by_block_rms", lambda: gx.normalize_by_block_rms(1e-3)),
    Row(
        "on_gradients",
        lambda: gx.quotient(gx.scale(2.0), gx.on_gradients(gx.root_second_moment(0.9, 1e-3))),
    ),
]

RECIPES = [
    Row(
        "dash",
        lambda: gx.dash(0.1, block_size=2, inv_root_freq=2, eps_inv_root=1e-2, mu=0.5),
        runs="partly",
    ),
    Row(
        "dash",
        lambda: gx.dash(
            0.1,
            block_size=2,
            start_prec_step=2,
            eps_inv_root=1e-2,
            mu=0.5,
            nesterov_form="mu_p_plus_m",
            one_dim="shampoo",
            packed=True,
        ),
        "options",
        runs="partly",
    ),
    Row(
        "kl_shampoo",
        lambda: gx.kl_shampoo(0.1, precondition_frequency=2, eps=1e-3),
        fails=ASKED,
        runs="partly",
    ),
    Row(
        "kl_soap",
        lambda: gx.kl_soap(0.1, b2=0.9, precondition_frequency=2, eps=1e-3),
        fails=ASKED,
        runs="partly",
    ),
    Row(
        "kl_soap_h",
        lambda: gx.kl_soap_h(0.1, eps=1e-3),
        fails=ASKED
        | {"override_has_an_effect": "steps have a norm of their own, whatever the scale"},
        runs="partly",
    ),
    Row(
        "soap_muon",
        lambda: gx.soap_muon(0.1, 0.9, 0.95, eps=1e-3, weight_decay=0.0, other=gx.scale(-0.1)),
        fails=ASKED,
        runs="partly",
    ),
    Row("one_sided_shampoo", lambda: gx.one_sided_shampoo(0.1, eps=1e-2), runs="partly"),
    Row("rekls", lambda: gx.rekls(0.1, eps=1e-2), fails=ASKED, runs="partly"),
    Row(
        "shampoo",
        lambda: gx.shampoo(0.1, eps=1e-2, precondition_frequency=2, momentum=0.5),
        fails=ASKED | FAILURES,
        runs="partly",
    ),
    Row(
        "shampoo",
        lambda: gx.shampoo(
            0.1,
            shampoo_beta=0.9,
            beta3=0.8,
            eps=1e-2,
            weight_decay_type="corrected",
            weight_decay=0.1,
            grafting=None,
            form="qr",
            one_dim="shampoo",
            trace_scaling=0.5,
        ),
        "corrected",
        runs="partly",
    ),
    Row(
        "shampoo",
        lambda: gx.shampoo(0.1, 0.5, 0.9, eps=1e-2, form="eigh", grafting=None, tolerance=0.1),
        "eigh",
        runs="partly",
    ),
    Row(
        "shampoo",
        lambda: gx.shampoo(0.1, 0.5, 0.9, eps=1e-2, form="kl", grafting="sgd", one_dim="shampoo"),
        "kl",
        fails=ASKED | FAILURES,
        runs="partly",
    ),
    Row(
        "soap",
        lambda: gx.soap(0.1, eps=1e-3, precondition_frequency=2),
        fails=ASKED,
        runs="partly",
    ),
    Row(
        "soap",
        lambda: gx.soap(
            0.1,
            eps=1e-3,
            precondition_frequency=2,
            skips_first=False,
            normalize_grads=True,
            nonfinite="ignore",
        ),
        "current",
        runs="partly",
    ),
    Row(
        "soap",
        lambda: gx.soap(0.1, eps=1e-3, precondition_frequency=2, codec=CODEC),
        "codec",
        fails=ASKED | CODES,
        runs="partly",
    ),
]

ROWS = [*PARTS, *RECIPES]
