"""Every option that chooses the members of a chain, with values to change it from and to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import gradtx as gx
from gradtx.optim import RecipeOptimizer
from gradtx.optim.evaluating import EvaluatingOptimizer

C, P, S = gx.codecs, gx.sparsity, gx.subspace

# Values by option; of each the first is the other way of the class's default.
VALUES: dict[str, tuple[Any, ...]] = {
    "adapt_lower_bound": (True,),
    "adjust_lr_fn": ("match_rms_adamw",),
    "aggregate": (False,),
    "alpha": (0.1,),
    "alpha_grad": (2.0,),
    "amsgrad": (True,),
    "atan2": (True,),
    "average": (False,),
    "b1": (0.9,),
    "b1_warmup": (5,),
    "b2": (0.9,),
    "basis": ("dct3",),
    "beta": (None,),
    "beta2_decay": (-0.5,),
    "beta3": (0.9,),
    "beta_g": (0.0, 0.5),
    "beta_lr": (0.5,),
    "betas": ((0.0, 0.9), (0.5, 0.9)),
    "bias_correction": (False, "window"),
    "bias_on": ("numerator", "fast"),
    "block_size": (8,),
    "bound": ("fixed",),
    "cautious": (True,),
    "cautious_decay": (True,),
    "centered": (True,),
    "clamp": (100.0,),
    "clip": (None, lambda step: 1.0 + step**0.25, gx.schedules.constant(0.5)),
    "clip_threshold": (1.0,),
    "codec": (C.blockwise(8, min_size=0), C.dynamic8(min_size=0), C.rank1(), C.affine_rows(8)),
    "convolutions": ("batch", "kernel"),
    "correct_bias": (False,),
    "counts": ("group",),
    "d0": (1e-4,),
    "d_coef": (0.5,),
    "d_limiter": (True,),
    "dampening": (0.5,),
    "damping": (True, 0.1),
    "data_format": ("channels_last",),
    "decay_basis": (False,),
    "decoupled": (False,),
    "decoupled_weight_decay": (True,),
    "density": (0.5,),
    "dtype": ("bfloat16",),
    "ef_bits": (8,),
    "ef_domain": ("spectral",),
    "ef_levels": (15,),
    "eps": (1e-3, (1e-4, 1e-2)),
    "eps_inv_root": (1e-6,),
    "eps_mode": ("relative",),
    "error_codec": (C.affine(4), torch.bfloat16),
    "error_feedback": (False,),
    "exponents": (),
    "factored": (True, False),
    "form": ("QUAD", "PRO4P"),
    "fraction": (0.5,),
    "grafting": ("sgd", None),
    "gram_reg": (1e-3,),
    "grams": (True,),
    "grams_signed": (False,),
    "growth_rate": (1.1,),
    "include_zero": (True,),
    "init_distance": (0.5,),
    "init_factor": (0.2,),
    "init_scale": (0.5, None),
    "init_step": (("distance", 0.5),),
    "initial_accumulator_value": (0.1,),
    "inner_momentum": (0.9,),
    "inv_root_freq": (1,),
    "inv_root_method": ("coupled_newton",),
    "limit_growth": (False,),
    "matricize": (True,),
    "matrix": (False,),
    "max_precond_dim": (5,),
    "max_preconditioner_dim": (5,),
    "max_shape": (4,),
    "max_size": (4,),
    "max_skew": (4.0,),
    "memory_save_mode": ("one_diag", "all_diag"),
    "merge_dims": (False,),
    "min_b1": (0.8,),
    "min_ndim": (3,),
    "min_size": (100,),
    "momentum": (0.0, 0.9, None, "sm"),
    "momentum_kind": ("sum",),
    "mu": (0.9,),
    "nesterov": (True, False),
    "nesterov_form": ("mu_p_plus_m",),
    "noise_in_momentum": (True,),
    "nonfinite": ("skip",),
    "normalize": ("count",),
    "norm": ("subspace",),
    "normalize_grads": (True,),
    "ns_coefficients": ("svd",),
    "error_dtype": ("bfloat16",),
    "ns_dtype": (torch.bfloat16,),
    "matmul_dtype": (torch.bfloat16,),
    "max_bytes": (10**6,),
    "ns_scaling": ("add",),
    "ns_steps": (3,),
    "num_heads": (2,),
    "numerator_correction": (False,),
    "on_refresh": ("reset", "rotate", "keep", "stale"),
    "one_dim": ("shampoo",),
    "one_sided": (True,),
    "orthograd": (True,),
    "packed": (True,),
    "parity": (True,),
    "peak_lr": (1e-2,),
    "power_iters": (2,),
    "precondition_1d": (True,),
    "precondition_frequency": (1,),
    "probability": (0.5,),
    "prodigy_steps": (2,),
    "proj": ("random", S.svd(2, clip_rank=True), S.gaussian(2, clip_rank=True)),
    "proj_method": ("svd",),
    "proj_type": ("right", "left", "full", "uniform", S.svd(2, clip_rank=True)),
    "qr_iterations": (2,),
    "quant_block_size": (8,),
    "query": ("gradient",),
    "r": (1.0,),
    "rank": (1, 4),
    "rank_fraction": (0.5,),
    "rank_multiple_of": (2,),
    "refresh": ("qr",),
    "requantize": ("scale",),
    "reset": ("all", "nothing"),
    "root": ("coupled_newton",),
    "rotate_subspace": (False,),
    "rounding": ("stochastic",),
    "safeguard_warmup": (True,),
    "scale": ("none", 2.0),
    "scale_by_basis_norm": (True,),
    "scale_front": (True,),
    "scale_parameter": (False,),
    "scale_type": ("tensor", "channel"),
    "schedule": (P.phases(("dense", 1), ("sparse", 2), ("dense", 1), ("sparse", 9)),),
    "scaling_type": ("kimi",),
    "second_moment": ("sn", None),
    "seed": (7,),
    "selection_norm": ("l2",),
    "shampoo_beta": (0.8,),
    "side": ("right",),
    "simplified_ademamix": (True,),
    "skips_first": (False,),
    "slice_p": (2, 1),
    "sparse": (False,),
    "split_sizes": ((2, 4), [3, 3]),
    "staggered": (True,),
    "start_prec_step": (3,),
    "start_preconditioning_step": (3,),
    "state_dtype": ("float32",),
    "stochastic_rounding": (False,),
    "subset": (None, 1, "heuristics"),
    "support": (0.5, P.magnitude_support(0.5, "leaf", "exact")),
    "t_alpha": (3,),
    "target_dims": (1,),
    "tolerance": (0.1,),
    "tolerated_failures": (None, 1),
    "trace_scaling": (1.0,),
    "transform": ("matmul", "fft"),
    "unturned": (),
    "update_proj_gap": (1, 3),
    "update_first": (False,),
    "use_ef": (True,),
    "use_nesterov": (False,),
    "variant": ("sps+",),
    "vector_reshape": (False,),
    "vector_rule": ("ndim",),
    "ademamix": (True,),
    "warmup_steps": (3,),
    "weighs_squares": (False,),
    "weight_decay_kind": ("decoupled", "reg"),
    "weight_decay_type": ("l2",),
    "weight_lr_power": (1.0,),
    "where": (lambda info: info.ndim == 2 and info.shape[0] > 5,),
    "whiten": ("gradient", "momentum"),
    "window": (2,),
}
# What else an option needs to have a meaning.
WITH: dict[tuple[str, str], dict[str, Any]] = {
    ("SGD", "dampening"): {"momentum": 0.9},
    ("SGD", "nesterov"): {"momentum": 0.9},
    ("DCTAdamW", "ef_bits"): {"use_ef": True},
    ("DCTAdamW", "ef_levels"): {"use_ef": True, "ef_bits": 4},
    ("DCTAdamW", "ef_domain"): {"use_ef": True},
    ("MFAC", "momentum_kind"): {"momentum": 0.9},
    ("LowRankMFAC", "momentum_kind"): {"momentum": 0.9},
    ("SparseMFAC", "momentum_kind"): {"momentum": 0.9},
    ("SNSM", "subset"): {"second_moment": "sn"},
    ("PSGD", "whiten"): {"momentum": 0.9},
    ("AdEMAMix", "t_alpha"): {},
    ("AdamAdv", "t_alpha"): {"ademamix": True},
    ("AdoptAdv", "t_alpha"): {"ademamix": True},
    ("AdamAdv", "grams_signed"): {"grams": True},
    ("AdoptAdv", "alpha_grad"): {"simplified_ademamix": True},
    ("ProdigyAdv", "alpha_grad"): {"simplified_ademamix": True},
}
for _option in ("proj_type", "on_refresh", "rank", "update_proj_gap", "where", "matricize", "seed"):
    WITH["SNSM", _option] = {"momentum": "sm", "rank": 2, "update_proj_gap": 2}
# Small enough for small parameters.
SMALL: dict[str, Any] = {
    "rank": 2,
    "update_proj_gap": 2,
    "block_size": 16,
    "min_size": 0,
    "window": 3,
    "density": 0.3,
    "quant_block_size": 4,
}


def classes() -> dict[str, type[RecipeOptimizer]]:
    """The generated classes by name."""
    found = {name: getattr(gx.optim, name) for name in gx.optim.__all__}
    return {
        name: cls
        for name, cls in found.items()
        if isinstance(cls, type) and issubclass(cls, RecipeOptimizer) and cls.signature
    }


def base(name: str, option: str = "") -> dict[str, Any]:
    """Options beside the one to change."""
    signature = classes()[name].signature
    small = {} if name == "SNSM" else {k: v for k, v in SMALL.items() if k in signature}
    return {**small, **WITH.get((name, option), {})}


def changes() -> Iterator[tuple[str, str, Any, Any]]:
    """Every class, option, value before and value after, both ways; a class may refuse one."""
    for name, cls in classes().items():
        if issubclass(cls, EvaluatingOptimizer):
            continue  # steps need a closure; test_evaluating
        for option in cls.structural():
            first = base(name, option).get(option, cls.signature[option])
            for other in VALUES[option]:
                if repr(other) != repr(first):
                    yield name, option, first, other
                    yield name, option, other, first


def is_taken(name: str, option: str, value: Any) -> bool:
    """Whether the class can be made with this value."""
    try:
        options = {**base(name, option), option: value}
        classes()[name]([torch.nn.Parameter(torch.ones(6, 5))], **options)
    except (ValueError, TypeError):
        return False
    return True
