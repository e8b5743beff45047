"""Every public transform, combinator and recipe, once or in several variants.

Adding a transform to gradtx means adding one ``Row`` here: the battery (``tests/battery``) then
runs all its properties on it. A property that cannot hold for a row is named in ``fails`` with the
reason; the battery still runs it and demands that it fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

import gradtx as gx

from . import (
    table_advanced,
    table_codecs,
    table_compression,
    table_kronecker,
    table_losses,
    table_psgd,
    table_sparsity,
    table_spectral,
    table_subspace,
    table_windows,
)
from .rows import ONE_VECTOR, Row

# Exports of gradtx that are no transforms: they need no row.
NOT_TRANSFORMS = {
    "advance": "moves a counter",
    "new_count": "makes a counter",
    "state_full": "makes a state tensor",
    "state_zeros": "makes a state tensor",
    "matrix_root": "takes roots of a stack of matrices",
    "atan2": "a function for quotient",
    "blocks": "says how leaves are cut",
    "divide": "a function for quotient",
    "apply_updates": "adds updates to parameters",
    "scale_by_backtracking_linesearch": "needs a loss; tests/transforms/test_linesearch.py",
    "scale_by_zoom_linesearch": "needs a loss; tests/transforms/test_linesearch.py",
    "value_and_grad_from_state": "reads a line search; tests/transforms/test_linesearch.py",
    "measure_with_ema": "gives what is measured; the row of monitor that is called average",
    "safe_norm": "the norm of a tensor",
    "safe_root_mean_squares": "a norm of a tensor",
    "skip_large": "says which calls multi_steps passes over",
    "skip_not_finite": "says which calls multi_steps passes over",
    "differentially_private_aggregate": "per-example gradients; tests/transforms/test_private.py",
    "dpsgd": "takes per-example gradients; tests/transforms/test_private.py",
    "dynamic": "declares a hyperparameter",
    "eigenbasis": "says when and how bases are found",
    "explain": "says what runs where",
    "fuse": "makes a step of a transform",
    "gradient_window": "functions of a window",
    "graft": "a merge function for parallel",
    "kronecker_factors": "says what is gathered of gradients",
    "matrix_groups": "makes parameter groups",
    "round_stochastically": "rounds one tensor",
    "schedule_free_eval_params": "gives parameters",
    "schedule_free_train_params": "gives parameters",
    "spectrum": "says how eigenvalues are followed",
    "static": "declares a hyperparameter",
    "incremental_update": "mixes two trees",
    "periodic_update": "chooses one of two trees",
    "per_example_global_norm_clip": "adds up per-example gradients",
    "per_example_layer_norm_clip": "adds up per-example gradients",
    "stop_gradient": "cuts derivatives of a tree",
    "unitwise_clip": "a function of norms",
    "unitwise_norm": "norms of a tensor",
}


# Functions that rows refer to: at module level, so that the transforms can be pickled.


def is_matrix(info: gx.LeafInfo) -> bool:
    return info.ndim == 2


def matrix_or_other(info: gx.LeafInfo) -> str:
    return "matrix" if info.ndim == 2 else "other"


def from_second_call(count: torch.Tensor) -> torch.Tensor:
    return count >= 1


ADVERSARY = gx.chain(gx.scale(-1.0), gx.normalize_by_update_norm(0.1))


@dataclass(frozen=True)
class FollowsTheLoss(gx.StatefulSchedule):
    def init(self) -> Any:
        return torch.zeros((), dtype=torch.float64, device="cpu")

    def update(self, state: Any, **extra: Any) -> Any:
        return (state + 0.5) / 2

    def __call__(self, state: Any, **extra: Any) -> Any:
        return state


def growing(step: torch.Tensor) -> torch.Tensor:
    return torch.where(step < 1, 2, 1)


def is_long(updates: Any) -> torch.Tensor:
    return gx.tree.norm(updates) > 1


def halve_leaf(u: torch.Tensor, p: torch.Tensor | None) -> torch.Tensor:
    return u.to(torch.promote_types(u.dtype, torch.float32)) / 2


def halve(updates: Any, params: Any) -> Any:
    return gx.tree.map(lambda u: u.to(torch.promote_types(u.dtype, torch.float32)) / 2, updates)


def no_state(params: Any) -> Any:
    return ()


def halve_with_state(updates: Any, state: Any, params: Any) -> Any:
    return halve(updates, params), state


CHECKS_NOTHING = (
    "mismatched_shape_is_an_error",
    "sparse_gradient_is_an_error",
    "complex_gradient_is_an_error",
    "integer_gradient_is_an_error",
    "unsupported_parameter_is_an_error",
)
NO_STRUCTURE = ("mismatched_tree_is_an_error", *CHECKS_NOTHING)
USER_FUNCTION = dict.fromkeys(NO_STRUCTURE, "the user's function decides what trees it takes")
PASSES_THROUGH = dict.fromkeys(CHECKS_NOTHING, "touches no value, so it takes every leaf")
IDENTITY = dict.fromkeys((*NO_STRUCTURE, "updates_are_widened"), "touches nothing at all")
NOT_CHOSEN = {"updates_are_widened": "leaves that are not chosen pass through untouched"}
ASKED = {"nan_in_nan_out": "it is what one asks for another rule with"}
LATE = {"override_has_an_effect": "eps counts from the fifth update on"}
NAMED_LEAVES = dict.fromkeys(
    ("every_container", "lone_tensor"), "the noise of a leaf depends on its name"
)
ROUNDS = {"bf16": "it rounds bfloat16 leaves and no others"}
ONE_MODEL = dict.fromkeys(
    (
        "absent_leaf",
        "compile",
        "every_container",
        "lone_tensor",
        "no_leaves",
        "non_contiguous",
        "state_of_another_tree_is_an_error",
        "zero_d_and_empty_leaves",
    ),
    "the labels are a tree shaped like one model",
)


def adam_chain() -> gx.GradientTransformation:
    return gx.chain(gx.scale_by_adam(0.8, 0.95), gx.scale_by_learning_rate(0.1))


COMBINATORS = [
    Row("identity", lambda: gx.identity(), fails=IDENTITY),
    Row("stateless", lambda: gx.stateless(halve), fails=USER_FUNCTION, runs="eager"),
    Row(
        "stateless_with_tree_map",
        lambda: gx.stateless_with_tree_map(halve_leaf),
        fails=USER_FUNCTION,
    ),
    Row(
        "split_real_and_imaginary",
        lambda: gx.split_real_and_imaginary(adam_chain()),
        fails=dict.fromkeys(
            ("complex_gradient_is_an_error", "unsupported_parameter_is_an_error"),
            "complex leaves are what it is for",
        ),
    ),
    Row(
        "transformation",
        lambda: gx.transformation(no_state, halve_with_state),
        fails=USER_FUNCTION,
        runs="eager",
    ),
    Row("chain", adam_chain),
    Row("chain", lambda: gx.chain(gx.trace(0.9), gx.cautious_mask(), gx.scale(-0.1)), "grads"),
    Row(
        "named_chain",
        lambda: gx.named_chain(("pre", adam_chain()), ("momentum", gx.trace(0.9, nesterov=True))),
    ),
    Row("parallel", lambda: gx.parallel(gx.scale(0.5), gx.trace(0.9))),
    Row("parallel", lambda: gx.parallel(gx.scale(0.5), adam_chain(), merge=gx.graft), "graft"),
    Row(
        "partition",
        lambda: gx.partition({"matrix": adam_chain(), "other": gx.trace(0.9)}, by=matrix_or_other),
    ),
    Row(
        "partition",
        lambda: gx.partition({0: gx.scale(2.0), 1: gx.trace(0.9)}, by={"b": 0, "deep": 1, "w": 1}),
        "tree",
        fails=ONE_MODEL,
    ),
    Row("masked", lambda: gx.masked(adam_chain(), is_matrix), fails=NOT_CHOSEN),
    Row(
        "freeze",
        lambda: gx.freeze(is_matrix),
        fails={
            k: v
            for k, v in (PASSES_THROUGH | NOT_CHOSEN | ASKED).items()
            if "mismatched_tree" not in k
        },
    ),
    Row("flatten", lambda: gx.flatten(adam_chain()), fails=ONE_VECTOR, runs="eager"),
    Row("multi_steps", lambda: gx.multi_steps(adam_chain(), every_k=2)),
    Row("multi_steps", lambda: gx.multi_steps(adam_chain(), growing, False), "growing"),
    Row(
        "multi_steps",
        lambda: gx.multi_steps(adam_chain(), 2, should_skip_update_fn=gx.skip_not_finite),
        "skips",
        fails=ASKED,
    ),
    Row(
        "inject_hyperparams",
        lambda: gx.inject_hyperparams(
            adam_chain(), {"lr": growing, "b2": 0.9, "b1": FollowsTheLoss()}
        ),
        fails=dict.fromkeys(
            (
                "override_has_an_effect",
                "value_outside_its_interval",
                "leaf_value_outside_its_interval",
                "override_of_another_type",
                "value_of_another_shape",
            ),
            "what the state holds stands for the values that the members were made with",
        ),
    ),
    Row(
        "mechanize",
        lambda: gx.mechanize(adam_chain(), eps=0.1, s_init=0.1),
        fails=dict.fromkeys(
            ("override_has_an_effect", "schedule"),
            "the sum of updates is what parameters have moved, and they do not",
        ),
        runs="eager",
    ),
    Row("sam", lambda: gx.sam(adam_chain(), ADVERSARY)),
    Row("sam", lambda: gx.sam(adam_chain(), gx.trace(0.5), 3, reset_state=False), "kept"),
    Row("apply_every", lambda: gx.apply_every(2)),
    Row("lookahead", lambda: gx.lookahead(adam_chain(), sync_period=2)),
    Row("lookahead", lambda: gx.lookahead(adam_chain(), 2, reset_state=True), "reset"),
    Row("apply_if_finite", lambda: gx.apply_if_finite(adam_chain()), fails=ASKED),
    Row(
        "skip_large_updates",
        lambda: gx.skip_large_updates(adam_chain(), max_norm=2.5),
        fails=ASKED,
    ),
    Row(
        "conditionally_mask",
        lambda: gx.conditionally_mask(adam_chain(), from_second_call),
    ),
    Row(
        "conditionally_transform",
        lambda: gx.conditionally_transform(adam_chain(), from_second_call),
    ),
    Row("count_together", lambda: gx.count_together(adam_chain())),
]

TRANSFORMS = [
    Row("add_decayed_weights", lambda: gx.add_decayed_weights(0.1)),
    Row(
        "add_decayed_weights",
        lambda: gx.add_decayed_weights(0.1, mask=is_matrix),
        "mask",
        fails=NOT_CHOSEN,
    ),
    Row("cautious_mask", lambda: gx.chain(gx.scale(-1.0), gx.trace(0.9), gx.cautious_mask())),
    Row("clip_by_global_norm", lambda: gx.clip_by_global_norm(0.5)),
    Row("clip_by_global_norm", lambda: gx.clip_by_global_norm(0.5, eps=1e-3), "eps"),
    Row("densify", lambda: gx.densify()),
    Row("scale", lambda: gx.scale(-0.5)),
    Row("scale_by_adam", lambda: gx.scale_by_adam(0.8, 0.95)),
    Row("scale_by_adam", lambda: gx.scale_by_adam(nesterov=True, eps_root=1e-8), "nesterov"),
    Row("scale_by_adam", lambda: gx.scale_by_adam(amsgrad="raw"), "amsgrad_raw"),
    Row("scale_by_adam", lambda: gx.scale_by_adam(amsgrad="corrected"), "amsgrad_corrected"),
    Row("scale_by_adam", lambda: gx.scale_by_adam(mu_codec=torch.bfloat16), "bf16_moment"),
    Row("scale_by_learning_rate", lambda: gx.scale_by_learning_rate(0.1)),
    Row("scale_by_schedule", lambda: gx.scale_by_schedule(0.5)),
    Row("set_to_zero", lambda: gx.set_to_zero(), fails=ASKED),
    Row("trace", lambda: gx.trace(0.9)),
    Row("trace", lambda: gx.trace(0.9, nesterov=True), "nesterov"),
]

SIMPLE = [
    Row("adaptive_grad_clip", lambda: gx.adaptive_grad_clip(0.1)),
    Row("adaptive_grad_clip", lambda: gx.adaptive_grad_clip(0.1, axis=0), "axis"),
    Row("add_noise", lambda: gx.add_noise(0.1, 0.5, seed=3), fails=NAMED_LEAVES, runs="eager"),
    Row("centralize", lambda: gx.centralize()),
    Row("clip", lambda: gx.clip(0.5)),
    Row("clip_by_block_rms", lambda: gx.clip_by_block_rms(0.5)),
    Row("keep_params_nonnegative", lambda: gx.keep_params_nonnegative()),
    Row(
        "monitor",
        lambda: gx.monitor({"norm": gx.tree.global_norm}),
        fails=IDENTITY
        | {"state_of_another_tree_is_an_error": "the state holds metrics, not parameters"},
        runs="eager",
    ),
    Row(
        "monitor",
        lambda: gx.monitor({"long": gx.measure_with_ema(is_long, 0.5)}),
        "average",
        fails=IDENTITY
        | {"state_of_another_tree_is_an_error": "the state holds metrics, not parameters"},
        runs="eager",
    ),
    Row("mars", lambda: gx.mars(0.5, 0.6, max_norm=0.5)),
    Row("normalize_by_update_norm", lambda: gx.normalize_by_update_norm(2.0, eps=1e-3)),
    Row("scale_by_param_block_norm", lambda: gx.scale_by_param_block_norm(2.0)),
    Row("scale_by_param_block_rms", lambda: gx.scale_by_param_block_rms(2.0)),
    Row("scale_by_trust_ratio", lambda: gx.scale_by_trust_ratio(0.1, 0.5, 1e-3)),
    Row(
        "snapshot",
        lambda: gx.chain(gx.snapshot("raw"), gx.scale(2.0), gx.snapshot("n", gx.tree.global_norm)),
        runs="partly",
    ),
    Row("stochastic_round", lambda: gx.stochastic_round(seed=3), fails=ROUNDS),
    Row("zero_nans", lambda: gx.zero_nans(), fails=ASKED),
]

MOMENTS = [
    Row("damped_trace", lambda: gx.damped_trace(0.9, 0.5)),
    Row("ema", lambda: gx.ema(0.9)),
    Row("ema", lambda: gx.ema(0.8, debias=False), "raw"),
    Row("ema", lambda: gx.ema(0.8, codec=torch.bfloat16), "bf16"),
    Row("limit_relative_step", lambda: gx.limit_relative_step(2.0)),
    Row("scale_by_adadelta", lambda: gx.scale_by_adadelta(0.8, 1e-3)),
    Row("scale_by_adamax", lambda: gx.scale_by_adamax(0.8, 0.95)),
    Row("scale_by_adan", lambda: gx.scale_by_adan(0.8, 0.9, 0.7)),
    Row("scale_by_belief", lambda: gx.scale_by_belief(0.8, 0.9, eps_root=1e-8)),
    Row(
        "scale_by_belief",
        lambda: gx.scale_by_belief(0.8, 0.9, eps_root=1e-8, nesterov=True),
        "nesterov",
    ),
    Row(
        "scale_by_factored_rms",
        lambda: gx.scale_by_factored_rms(min_dim_size_to_factor=2),
        runs="partly",
    ),
    Row("scale_by_factored_rms", lambda: gx.scale_by_factored_rms(), "small"),
    Row(
        "scale_by_factored_rms",
        lambda: gx.scale_by_factored_rms(
            min_dim_size_to_factor=1, epsilon=0.0, floor=1e-3, factored_dims="last"
        ),
        "floor",
        runs="partly",
    ),
    Row("scale_by_inverse_time", lambda: gx.scale_by_inverse_time(0.1)),
    Row("scale_by_lion", lambda: gx.scale_by_lion(0.8, 0.9)),
    Row("scale_by_lion", lambda: gx.scale_by_lion(0.8, 0.9, mode="smooth"), "smooth"),
    Row("scale_by_lion", lambda: gx.scale_by_lion(0.8, 0.9, mode="refined"), "refined"),
    Row("scale_by_nadam", lambda: gx.scale_by_nadam(0.8, 0.95, momentum_decay=0.1)),
    Row("scale_by_novograd", lambda: gx.scale_by_novograd(0.8, 0.7, weight_decay=0.1)),
    Row("scale_by_optimistic_gradient", lambda: gx.scale_by_optimistic_gradient(0.9, 0.7)),
    Row("scale_by_radam", lambda: gx.scale_by_radam(0.8, 0.9, threshold=4.0), fails=LATE),
    Row(
        "scale_by_radam",
        lambda: gx.scale_by_radam(0.8, 0.9, threshold=4.0, nesterov=True, raw_eps=True),
        "options",
        fails=LATE,
    ),
    Row("scale_by_rms", lambda: gx.scale_by_rms()),
    Row(
        "scale_by_rms",
        lambda: gx.scale_by_rms(eps_in_sqrt=False, bias_correction=True, initial_scale=0.1),
        "options",
    ),
    Row("scale_by_rprop", lambda: gx.scale_by_rprop(0.1, min_step_size=0.06, max_step_size=0.11)),
    Row("scale_by_rss", lambda: gx.scale_by_rss()),
    Row("scale_by_rss", lambda: gx.scale_by_rss(0.0, 1e-10, eps_in_sqrt=False), "outside"),
    Row("scale_by_sign", lambda: gx.scale_by_sign()),
    Row("scale_by_sm3", lambda: gx.scale_by_sm3(), runs="partly"),
    Row("scale_by_sm3", lambda: gx.scale_by_sm3(0.5, 0.9), "average", runs="partly"),
    Row("scale_by_stddev", lambda: gx.scale_by_stddev(0.8, 1e-3)),
    Row(
        "scale_by_stddev",
        lambda: gx.scale_by_stddev(0.8, 0.1, bias_correction=True),
        "corrected",
    ),
    Row(
        "scale_by_stddev",
        lambda: gx.scale_by_stddev(0.8, 1e-3, initial_scale=0.1, eps_in_sqrt=False),
        "outside",
    ),
    Row("schedule_free", lambda: gx.schedule_free(gx.trace(0.9), 0.1)),
    Row(
        "schedule_free",
        lambda: gx.schedule_free(gx.scale_by_sign(), 0.1, 0.8, 3, r=0.5, weight_lr_power=0.5),
        "options",
    ),
    Row("scale_by_yogi", lambda: gx.scale_by_yogi(0.8, 0.9)),
]

RECIPES = [
    Row("adamw", lambda: gx.adamw(0.1)),
    Row("adamw", lambda: gx.adamw(0.1, mask=is_matrix, nesterov=True, amsgrad="raw"), "options"),
    Row("adabelief", lambda: gx.adabelief(0.1, eps_root=1e-8)),
    Row("adadelta", lambda: gx.adadelta(0.5)),
    Row("adafactor", lambda: gx.adafactor(0.1, 2, momentum=0.9), runs="partly"),
    Row(
        "adafactor",
        lambda: gx.adafactor(0.5, 1, relative_step=True, floor=1e-3),
        "relative",
        runs="partly",
    ),
    Row("adagrad", lambda: gx.adagrad(0.1, lr_decay=0.1)),
    Row("adam", lambda: gx.adam(0.1, weight_decay=0.1)),
    Row("adamax", lambda: gx.adamax(0.1)),
    Row("adamaxw", lambda: gx.adamaxw(0.1)),
    Row("adan", lambda: gx.adan(0.1)),
    Row("amsgrad", lambda: gx.amsgrad(0.1)),
    Row("lamb", lambda: gx.lamb(0.1, weight_decay=0.1)),
    Row("lars", lambda: gx.lars(0.1, nesterov=True)),
    Row("lion", lambda: gx.lion(0.1)),
    Row("mars_adamw", lambda: gx.mars_adamw(0.1)),
    Row("nadam", lambda: gx.nadam(0.1)),
    Row("nadam", lambda: gx.nadam(0.1, momentum_decay=4e-3), "schedule"),
    Row("nadamw", lambda: gx.nadamw(0.1)),
    Row("novograd", lambda: gx.novograd(0.1)),
    Row("optimistic_gradient_descent", lambda: gx.optimistic_gradient_descent(0.1)),
    Row("radam", lambda: gx.radam(0.1, b2=0.9), fails=LATE),
    Row("rmsprop", lambda: gx.rmsprop(0.1, centered=True, eps=1e-3, momentum=0.9)),
    Row("rprop", lambda: gx.rprop(0.1, min_step_size=0.06, max_step_size=0.11)),
    Row("schedule_free_adamw", lambda: gx.schedule_free_adamw(0.1, weight_decay=0.1)),
    Row(
        "schedule_free_adamw",
        lambda: gx.schedule_free_adamw(0.1, inner_momentum=0.5, warmup_steps=2),
        "momentum",
    ),
    Row("schedule_free_sgd", lambda: gx.schedule_free_sgd(0.1)),
    Row("sgd", lambda: gx.sgd(0.1)),
    Row("sgd", lambda: gx.sgd(0.1, 0.9, nesterov=True), "nesterov"),
    Row("sgd", lambda: gx.sgd(0.1, 0.9, dampening=0.5, weight_decay=0.1), "dampening"),
    Row("signsgd", lambda: gx.signsgd(0.1)),
    Row("signum", lambda: gx.signum(0.1)),
    Row("sm3", lambda: gx.sm3(0.1), runs="partly"),
    Row("yogi", lambda: gx.yogi(0.1)),
]

ROWS = [
    *COMBINATORS,
    *TRANSFORMS,
    *SIMPLE,
    *MOMENTS,
    *RECIPES,
    *table_advanced.ROWS,
    *table_codecs.ROWS,
    *table_compression.ROWS,
    *table_kronecker.ROWS,
    *table_subspace.ROWS,
    *table_psgd.ROWS,
    *table_sparsity.ROWS,
    *table_spectral.ROWS,
    *table_losses.ROWS,
    *table_windows.ROWS,
]
