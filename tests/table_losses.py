"""Rows of transforms that follow losses, distances from the start or the Hessian."""

from __future__ import annotations

import gradtx as gx

from .rows import Row

STAYS = {"override_has_an_effect": "parameters that do not move are at no distance"}
NAMED = dict.fromkeys(("every_container", "lone_tensor"), "the noise of a leaf depends on its name")
ONLY_VALUES = {"state_of_another_tree_is_an_error": "the state holds losses, not parameters"}

ROWS = [
    Row("scale_by_acprop", lambda: gx.scale_by_acprop(0.8, 0.9, 1e-3, 1e-3)),
    Row("scale_by_cocob", lambda: gx.scale_by_cocob(2.5, 1e-3)),
    Row("scale_by_dadapt_adam", lambda: gx.scale_by_dadapt_adam(d0=0.1, weight_decay=0.1)),
    Row("contracted_step", lambda: gx.contracted_step(0.5)),
    Row("scale_by_distance_over_gradients", lambda: gx.scale_by_distance_over_gradients(0.1, 0.1)),
    Row("scale_by_dog", lambda: gx.scale_by_dog(("distance", 0.5), 0.1)),
    Row("scale_by_dog", lambda: gx.scale_by_dog(("heuristic", 0.1), 0.1), "heuristic"),
    Row("scale_by_dog", lambda: gx.scale_by_dog(("learning_rate", 0.1), 0.1), "rate", fails=STAYS),
    Row("scale_by_dowg", lambda: gx.scale_by_dowg(0.25, 0.1)),
    Row("scale_by_lbfgs", lambda: gx.scale_by_lbfgs(2), runs="eager"),
    Row("scale_by_madgrad", lambda: gx.scale_by_madgrad(0.1, 0.8)),
    Row("scale_by_momo", lambda: gx.scale_by_momo(10.0, 0.8, weight_decay=0.1)),
    Row(
        "scale_by_momo",
        lambda: gx.scale_by_momo(10.0, 0.8, -1.0, 0.1, adapt_lower_bound=True),
        "adapt",
    ),
    Row("scale_by_momo_adam", lambda: gx.scale_by_momo_adam(10.0, 0.8, 0.9, 0.1, weight_decay=0.1)),
    Row("scale_by_polyak", lambda: gx.scale_by_polyak(0.15, eps=0.1, variant="sps+")),
    Row("reduce_on_plateau", lambda: gx.reduce_on_plateau(0.5, patience=1), fails=ONLY_VALUES),
    Row("scale_by_sophia", lambda: gx.scale_by_sophia(0.8, 0.9, 1e-3, 0.5), runs="eager"),
    Row("scale_by_adahessian", lambda: gx.scale_by_adahessian(0.8, 0.9, 0.1), runs="eager"),
    Row("acprop", lambda: gx.acprop(0.1, 0.8, 0.9, 1e-3, 1e-3)),
    Row("adahessian", lambda: gx.adahessian(0.1), runs="eager"),
    Row("cocob", lambda: gx.cocob(alpha=2.5, eps=1e-3)),
    Row("dadapt_adamw", lambda: gx.dadapt_adamw(d0=0.1)),
    Row("dog", lambda: gx.dog(init_step=("distance", 0.5), eps=0.1)),
    Row("dowg", lambda: gx.dowg(init_distance=0.25, eps=0.1)),
    Row("fromage", lambda: gx.fromage(0.5)),
    Row("lbfgs", lambda: gx.lbfgs(0.1, 2, linesearch=None), runs="partly"),
    Row("madgrad", lambda: gx.madgrad(0.1, 0.8)),
    Row("momo", lambda: gx.momo(10.0, 0.8, weight_decay=0.1)),
    Row("momo_adam", lambda: gx.momo_adam(10.0, 0.8, 0.9, 0.1, weight_decay=0.1)),
    Row("noisy_sgd", lambda: gx.noisy_sgd(0.1, 0.1, 0.5, seed=3), fails=NAMED, runs="partly"),
    Row("optimistic_adam", lambda: gx.optimistic_adam(0.1)),
    Row("polyak_sgd", lambda: gx.polyak_sgd(max_step=0.15, eps=0.1)),
    Row("sophia", lambda: gx.sophia(0.1, gamma=0.5), runs="eager"),
]
