"""Rows of the table: the parts of adaptive steps, and the recipes that compose them."""

from __future__ import annotations

import gradtx as gx

from .rows import Row

ROUNDS = {"bf16": "it rounds bfloat16 leaves stochastically"}
NO_EPS = {"override_has_an_effect": "atan2 needs no eps"}
NO_BETA = {"override_has_an_effect": "beta is of the momentum that is left out"}
SIGNS = {"override_has_an_effect": "the signs of these few steps do not depend on b1 and b2"}
STILL = {"override_has_an_effect": "d_coef counts once the parameters have moved"}
RANK1 = gx.codecs.rank1()


def adam_step(numerator: gx.GradientTransformation) -> gx.GradientTransformation:
    return gx.quotient(numerator, gx.root_second_moment(0.95))


PARTS = [
    Row("accumulate", lambda: gx.accumulate(0.8, alpha_grad=2.0)),
    Row("accumulate", lambda: gx.accumulate(0.95, 2.0, warmup=3, debias=False), "warmup"),
    Row("as_gradients", lambda: gx.as_gradients(gx.trace(0.9), gx.cautious_mask())),
    Row("clip_by_leaf_norm", lambda: gx.clip_by_leaf_norm(0.5)),
    Row(
        "cautious_mask",
        lambda: gx.chain(gx.scale(-1.0), gx.trace(0.9), gx.cautious_mask("sum_plus_one")),
        "sum_plus_one",
    ),
    Row("first_moment", lambda: gx.first_moment(0.8)),
    Row("first_moment", lambda: gx.first_moment(0.8, RANK1), "rank1"),
    Row("grams", lambda: gx.chain(gx.first_moment(0.8), gx.grams())),
    Row("orthogonalize_grad", lambda: gx.orthogonalize_grad()),
    Row("quotient", lambda: adam_step(gx.first_moment(0.8))),
    Row(
        "quotient",
        lambda: gx.quotient(
            gx.parallel(gx.chain(gx.first_moment(0.8), gx.cautious_mask()), gx.slow_moment(0.99)),
            gx.root_second_moment(0.95, eps_at=None),
            by=gx.atan2,
        ),
        "atan2",
        fails=NO_EPS,
    ),
    Row("root_second_moment", lambda: gx.root_second_moment(0.9, debias=False)),
    Row("root_second_moment", lambda: gx.root_second_moment(0.9, eps_at="root"), "root"),
    Row("scale_by_adopt", lambda: gx.scale_by_adopt(0.9)),
    Row("scale_by_adopt", lambda: gx.scale_by_adopt(0.9, atan2=True), "atan2", fails=NO_EPS),
    Row("scale_by_adopt", lambda: gx.scale_by_adopt(0.9, codec=RANK1), "rank1"),
    Row(
        "scale_by_prodigy",
        lambda: gx.scale_by_prodigy(gx.scale_by_adam(0.8, 0.9), 0.5, d0=0.1, slice_p=2),
        fails=STILL,
    ),
    Row(
        "scale_by_prodigy",
        lambda: gx.scale_by_prodigy(
            adam_step(gx.first_moment(0.8)),
            d0=0.1,
            growth_rate=1.5,
            slice_p=1,
            safeguard_warmup=True,
            steps=3,
            d_limiter=True,
            bias_correction=True,
            estimate_first=True,
        ),
        "options",
        fails=STILL,
    ),
    Row("scale_by_smmf", lambda: gx.scale_by_smmf()),
    Row(
        "scale_by_smmf",
        lambda: gx.scale_by_smmf(momentum=False, codec=None),
        "dense",
        fails=NO_BETA,
    ),
    Row("skip_first", lambda: gx.skip_first()),
    Row("slow_moment", lambda: gx.slow_moment(0.8, t_alpha=3)),
    Row("undo_bias", lambda: gx.undo_bias(0.8)),
]

# Every feature of every optimizer is on in at least one row; all pairs are in test_features.py.
RECIPES = [
    Row("adam_adv", lambda: gx.adam_adv(0.1), fails=ROUNDS),
    Row("adam_adv", lambda: gx.adam_adv(0.1, factored=True), "factored", fails=ROUNDS),
    Row(
        "adam_adv",
        lambda: gx.adam_adv(
            0.1, factored=True, ademamix=True, t_alpha=3, orthograd=True, cautious=True, atan2=True
        ),
        "features",
        fails=ROUNDS | NO_EPS,
    ),
    Row(
        "adam_adv",
        lambda: gx.adam_adv(0.1, grams=True, ademamix=True, bias_on="fast"),
        "grams",
        fails=ROUNDS,
    ),
    Row("ademamix", lambda: gx.ademamix(0.1, b3=0.99, t_alpha=3)),
    Row("adopt", lambda: gx.adopt(0.1)),
    Row("adopt_adv", lambda: gx.adopt_adv(0.1, factored=True), "factored", fails=ROUNDS),
    Row(
        "adopt_adv",
        lambda: gx.adopt_adv(0.1, ademamix=True, orthograd=True, cautious=True, atan2=True),
        "features",
        fails=ROUNDS | NO_EPS,
    ),
    Row("adopt_adv", lambda: gx.adopt_adv(0.1, factored=True, grams=True), "grams", fails=ROUNDS),
    Row(
        "adopt_adv",
        lambda: gx.adopt_adv(0.01, simplified_ademamix=True),
        "simplified",
        fails=ROUNDS,
    ),
    Row("adamw8bit", lambda: gx.adamw8bit(0.1, min_size=0)),
    Row("adamw4bit", lambda: gx.adamw4bit(0.1, min_size=0)),
    Row("c_adamw", lambda: gx.c_adamw(0.1)),
    Row("c_lion", lambda: gx.c_lion(0.1)),
    Row("lion_adv", lambda: gx.lion_adv(0.1), fails=ROUNDS | SIGNS),
    Row(
        "lion_adv",
        lambda: gx.lion_adv(0.1, factored=False, orthograd=True, cautious=True, clip_threshold=0.5),
        "features",
        fails=ROUNDS | SIGNS,
    ),
    Row("prodigy", lambda: gx.prodigy(0.5, d0=0.1, weight_decay=0.1), fails=STILL),
    Row(
        "prodigy_adv",
        lambda: gx.prodigy_adv(d0=0.1, factored=True, slice_p=1),
        "factored",
        fails=STILL | ROUNDS,
    ),
    Row(
        "prodigy_adv",
        lambda: gx.prodigy_adv(
            d0=0.1, ademamix=True, t_alpha=3, orthograd=True, cautious=True, slice_p=1
        ),
        "features",
        fails=STILL | ROUNDS,
    ),
    Row(
        "prodigy_adv",
        lambda: gx.prodigy_adv(d0=0.1, simplified_ademamix=True, alpha_grad=10.0, slice_p=1),
        "simplified",
        fails=STILL | ROUNDS,
    ),
    Row("prodigy_lion_adv", lambda: gx.prodigy_lion_adv(d0=0.1), fails=STILL | ROUNDS),
    Row(
        "prodigy_lion_adv",
        lambda: gx.prodigy_lion_adv(
            d0=0.1, factored=False, cautious=True, clip_threshold=0.5, slice_p=1
        ),
        "features",
        fails=STILL | ROUNDS,
    ),
    Row("simplified_ademamix", lambda: gx.simplified_ademamix(0.01), fails=ROUNDS),
    Row(
        "simplified_ademamix",
        lambda: gx.simplified_ademamix(
            0.01, factored=True, orthograd=True, b1_warmup=3, bias_correction=False
        ),
        "features",
        fails=ROUNDS,
    ),
    Row("smmf", lambda: gx.smmf(0.1)),
    Row(
        "smmf",
        lambda: gx.smmf(0.1, beta=None, decoupled=False, weight_decay=0.1),
        "no_momentum",
        fails=NO_BETA,
    ),
]

ROWS = [*PARTS, *RECIPES]
