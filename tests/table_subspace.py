"""Rows of the table: subspaces, second moments per subset, and the recipes made of them."""

from __future__ import annotations

import gradtx as gx

from .rows import PER_ENTRY, Row

s = gx.subspace
NAMED = dict.fromkeys(
    ("every_container", "lone_tensor"), "the random subspace of a leaf depends on its name"
)


def adam_step() -> gx.GradientTransformation:
    return gx.quotient(gx.first_moment(0.8), gx.root_second_moment(0.95, eps_at="root"))


PARTS = [
    Row("decay_after", lambda: gx.decay_after(0.1, 0.2)),
    Row("limit_norm_growth", lambda: gx.limit_norm_growth(1.01, 1e-3)),
    Row("root_subset_norm", lambda: gx.root_subset_norm(), runs="partly"),
    Row("root_subset_norm", lambda: gx.root_subset_norm(-1, 0.9), "runs"),
    Row("root_subset_norm", lambda: gx.root_subset_norm("leaf", 1.0), "leaf"),
    Row("scale_by_bias_factor", lambda: gx.scale_by_bias_factor(0.8, 0.9)),
    Row("scale_by_subset_norm", lambda: gx.scale_by_subset_norm(b2=0.9), runs="partly"),
    Row("scale_by_subset_norm", lambda: gx.scale_by_subset_norm("matrix", debias=False), "matrix"),
    Row(
        "scale_by_subset_norm",
        lambda: gx.scale_by_subset_norm(4, ragged=True),
        "ragged",
        runs="eager",
    ),
    Row("scale_by_subset_norm", lambda: gx.scale_by_subset_norm(None, 0.9), "entries"),
]

SUBSPACE = [
    Row(
        "in_subspace",
        lambda: gx.in_subspace(s.svd(1), adam_step(), s.zero_based(2), scale=0.5),
        runs="partly",
    ),
    Row(
        "in_subspace",
        lambda: gx.in_subspace(s.power_iteration(2), adam_step(), s.every_step(), "rotate"),
        "rotate",
        runs="partly",
    ),
    Row(
        "in_subspace",
        lambda: gx.in_subspace(s.uniform(2), gx.trace(0.9), s.staggered(2), "reset"),
        "uniform",
        fails=NAMED,
        runs="partly",
    ),
    Row(
        "in_subspace",
        lambda: gx.in_subspace(s.two_sided(s.svd(2)), gx.scale_by_adam(eps=1e-2), s.zero_based(3)),
        "two_sided",
        runs="partly",
    ),
    Row(
        "in_subspace",
        lambda: gx.in_subspace(
            s.srdct(2), gx.chain(gx.trace(0.9), gx.scale_by_param_block_rms()), s.one_based(2)
        ),
        "size",
        fails=NAMED,
        runs="partly",
    ),
    Row(
        "lift",
        lambda: gx.chain(gx.project_to_subspace(s.randomized_svd(1), s.zero_based(2)), gx.lift()),
        fails=NAMED,
        runs="eager",
    ),
    Row(
        "low_rank",
        lambda: gx.chain(
            gx.error_feedback(s.projection(s.svd(1), s.zero_based(2))),
            gx.low_rank(gx.trace(0.9), s.svd(1)),
            gx.lift(),
        ),
        runs="eager",
    ),
    Row(
        "project_to_subspace",
        lambda: gx.chain(
            gx.project_to_subspace(s.top_norm(2), s.zero_based(2)), gx.scale(2.0), gx.lift(0.5)
        ),
        fails=dict.fromkeys(PER_ENTRY, "a projected update has other entries"),
        runs="eager",
    ),
    Row(
        "quasi_hyperbolic",
        lambda: gx.quasi_hyperbolic(gx.first_moment(0.8), gx.root_second_moment(0.9, 1e-3)),
    ),
    Row(
        "quasi_hyperbolic",
        lambda: gx.chain(
            gx.error_feedback(s.projection(s.svd(1), s.zero_based(2))),
            gx.quasi_hyperbolic(
                *(gx.first_moment(0.8), gx.root_second_moment(0.9, 1e-3), 0.6, "column", s.svd(1))
            ),
        ),
        "low_rank",
        runs="eager",
    ),
    Row(
        "scale_by_ldadam",
        lambda: gx.scale_by_ldadam(s.power_iteration(1, "std_left")),
        runs="partly",
    ),
    Row(
        "scale_by_ldadam",
        lambda: gx.scale_by_ldadam(s.svd(2), 0.5, 0.9, error_feedback=False),
        "forgets",
        runs="partly",
    ),
    Row(
        "scale_by_low_rank_ratio",
        lambda: gx.scale_by_low_rank_ratio(s.svd(1), adam_step(), s.zero_based(2)),
        runs="partly",
    ),
    Row(
        "scale_by_low_rank_ratio",
        lambda: gx.scale_by_low_rank_ratio(
            s.gaussian(2), adam_step(), s.zero_based(2), "tensor", "reset"
        ),
        "tensor",
        fails=NAMED,
        runs="partly",
    ),
    Row(
        "subspace_momentum",
        lambda: gx.subspace_momentum(s.svd(1), 0.8, s.one_based(2), "rotate"),
        runs="partly",
    ),
    Row(
        "subspace_momentum",
        lambda: gx.subspace_momentum(s.dct(2), 0.8, s.one_based(2)),
        "dct",
        runs="partly",
    ),
    Row(
        "subspace_momentum",
        lambda: gx.subspace_momentum(s.top_norm(2), 0.8, s.one_based(2), "stale", debias=True),
        "stale",
        runs="partly",
    ),
    Row(
        "subspace_momentum",
        lambda: gx.subspace_momentum(s.rademacher(2), 0.8, s.one_based(2)),
        "rademacher",
        fails=NAMED,
        runs="partly",
    ),
]

RECIPES = [
    Row("adagrad_sn", lambda: gx.adagrad_sn(0.5, weight_decay=0.1), runs="partly"),
    Row(
        "adam_snsm",
        lambda: gx.adam_snsm(0.1, weight_decay=0.1, rank=1, update_proj_gap=2),
        runs="partly",
    ),
    Row("adamw_sn", lambda: gx.adamw_sn(0.1, weight_decay=0.1)),
    Row(
        "apollo",
        lambda: gx.apollo(0.1, rank=1, weight_decay=0.1, update_proj_gap=2, proj="svd", scale=2.0),
        runs="partly",
    ),
    Row(
        "apollo",
        lambda: gx.apollo(
            0.1, rank=2, weight_decay=0.1, update_proj_gap=2, scale_front=True, limit_growth=False
        ),
        "random",
        fails=NAMED,
        runs="partly",
    ),
    Row(
        "apollo_mini",
        lambda: gx.apollo_mini(0.1, weight_decay=0.1, update_proj_gap=2),
        fails=NAMED,
        runs="partly",
    ),
    Row(
        "galore_adafactor",
        lambda: gx.galore_adafactor(
            0.1, weight_decay=0.1, relative_step=False, b1=0.9, rank=2, update_proj_gap=3
        ),
        runs="partly",
    ),
    Row(
        "galore_adafactor",
        lambda: gx.galore_adafactor(weight_decay=0.1, rank=1, update_proj_gap=3),
        "relative",
        fails=dict.fromkeys(PER_ENTRY, "a projected update has other entries"),
        runs="partly",
    ),
    Row(
        "galore_adamw",
        lambda: gx.galore_adamw(0.1, rank=1, weight_decay=0.1, update_proj_gap=2),
        runs="partly",
    ),
    Row(
        "galore_adamw",
        lambda: gx.galore_adamw(0.1, rank=None, weight_decay=0.1, correct_bias=False),
        "dense",
    ),
    Row(
        "galore_adamw8bit",
        lambda: gx.galore_adamw8bit(0.1, weight_decay=0.1, rank=2, update_proj_gap=2, min_size=0),
        runs="partly",
    ),
    Row("ldadamw", lambda: gx.ldadamw(0.1, rank=1, weight_decay=0.1), runs="partly"),
    Row("rmsprop_sn", lambda: gx.rmsprop_sn(0.1, weight_decay=0.1, b2=0.9), runs="partly"),
    Row(
        "snsm",
        lambda: gx.snsm(
            0.1,
            weight_decay=0.1,
            momentum="sm",
            rank=2,
            update_proj_gap=2,
            proj_type="topk",
            parity=True,
        ),
        runs="partly",
    ),
    Row(
        "snsm",
        lambda: gx.snsm(0.1, momentum="ema", weight_decay=0.1, second_moment=None),
        "momentum",
    ),
]

ROWS = [*PARTS, *SUBSPACE, *RECIPES]
