"""What is compared with Optax, as data: read by ``record`` (needs Optax) and by the test.

Not here: rprop, where Optax applies the step of the call before (checked with optax 0.2.8) and
gradtx, like torch.optim, the one just computed; and ``add_noise``, whose random numbers differ.
"""

from __future__ import annotations

from .calls import Case, function, growing, schedule, tx

WARM = schedule(
    "warmup_cosine_decay",
    init_value=0.0,
    peak_value=0.5,
    warmup_steps=3,
    decay_steps=7,
    end_value=0.1,
)

SCHEDULES = {
    "constant": schedule("constant", value=0.3),
    "linear": schedule(
        "linear", init_value=1.0, end_value=0.1, transition_steps=20, transition_begin=3
    ),
    "linear-up": schedule("linear", init_value=0.0, end_value=3e-4, transition_steps=7),
    "polynomial": schedule(
        "polynomial",
        init_value=2.0,
        end_value=0.5,
        power=1.7,
        transition_steps=20,
        transition_begin=3,
    ),
    "exponential": schedule(
        "exponential_decay",
        optax="exponential_decay",
        init_value=2.0,
        transition_steps=7,
        decay_rate=0.8,
        transition_begin=2,
    ),
    "exponential-staircase-end": schedule(
        "exponential_decay",
        optax="exponential_decay",
        init_value=2.0,
        transition_steps=7,
        decay_rate=0.5,
        staircase=True,
        end_value=0.4,
    ),
    "exponential-growth-end": schedule(
        "exponential_decay",
        optax="exponential_decay",
        init_value=0.1,
        transition_steps=3,
        decay_rate=1.5,
        end_value=3.0,
    ),
    "cosine": schedule("cosine_decay", init_value=0.7, decay_steps=30),
    "cosine-alpha-exponent": schedule(
        "cosine_decay", init_value=0.7, decay_steps=17, alpha=0.1, exponent=1.5
    ),
    "warmup-constant": schedule("warmup_constant", init_value=0.1, peak_value=1.0, warmup_steps=9),
    "warmup-cosine": WARM,
    "warmup-cosine-exponent": schedule(
        "warmup_cosine_decay",
        init_value=0.1,
        peak_value=1.0,
        warmup_steps=5,
        decay_steps=30,
        end_value=0.01,
        exponent=2.0,
    ),
    "warmup-cosine-none": schedule(
        "warmup_cosine_decay", init_value=0.1, peak_value=1.0, warmup_steps=0, decay_steps=30
    ),
    "warmup-exponential": schedule(
        "warmup_exponential_decay",
        init_value=0.1,
        peak_value=1.0,
        warmup_steps=5,
        transition_steps=4,
        decay_rate=0.7,
        transition_begin=3,
    ),
    "warmup-exponential-staircase-end": schedule(
        "warmup_exponential_decay",
        init_value=0.1,
        peak_value=1.0,
        warmup_steps=5,
        transition_steps=4,
        decay_rate=0.7,
        staircase=True,
        end_value=0.2,
    ),
    "linear-onecycle": schedule("linear_onecycle", transition_steps=33, peak_value=0.9),
    "linear-onecycle-factors": schedule(
        "linear_onecycle",
        transition_steps=20,
        peak_value=0.9,
        pct_start=0.4,
        pct_final=0.7,
        div_factor=5.0,
        final_div_factor=50.0,
    ),
    "cosine-onecycle": schedule("cosine_onecycle", transition_steps=33, peak_value=0.9),
    "cosine-onecycle-factors": schedule(
        "cosine_onecycle",
        transition_steps=20,
        peak_value=0.9,
        pct_start=0.45,
        div_factor=5.0,
        final_div_factor=50.0,
    ),
    "sgdr": schedule(
        "sgdr",
        cosine_kwargs=[
            {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 9},
            {
                "init_value": 0.1,
                "peak_value": 0.5,
                "warmup_steps": 0,
                "decay_steps": 12,
                "end_value": 0.05,
            },
            {
                "init_value": 0.0,
                "peak_value": 0.3,
                "warmup_steps": 4,
                "decay_steps": 11,
                "exponent": 2.0,
            },
        ],
    ),
    "piecewise-constant": schedule(
        "piecewise_constant", init_value=2.0, boundaries_and_scales={20: 0.3, 5: 0.5, 31: 3.0}
    ),
    "piecewise-interpolate-linear": schedule(
        "piecewise_interpolate",
        interpolate_type="linear",
        init_value=2.0,
        boundaries_and_scales={5: 0.5, 20: 3.0, 31: 0.1},
    ),
    "piecewise-interpolate-cosine": schedule(
        "piecewise_interpolate",
        interpolate_type="cosine",
        init_value=2.0,
        boundaries_and_scales={5: 0.5, 20: 3.0, 31: 0.1},
    ),
    "join": schedule(
        "join",
        optax="join_schedules",
        schedules=[
            schedule("linear", init_value=0.0, end_value=1.0, transition_steps=4),
            schedule("constant", value=0.8),
            schedule("cosine_decay", init_value=0.8, decay_steps=15),
        ],
        boundaries=[4, 11],
    ),
}

LR = {"learning_rate": 0.1}
ADVERSARY = tx(
    "chain",
    members=[tx("scale", step_size=-1.0), tx("normalize_by_update_norm", scale_factor=0.3)],
)
LAYOUT = {"matrix": True, "scalar": False, "vector": False}
LABELS = {"matrix": "a", "scalar": "b", "vector": "b"}

TRANSFORMS = [
    # Size of updates.
    Case("identity", tx("identity")),
    Case("scale", tx("scale", step_size=-0.3)),
    Case("scale_by_learning_rate", tx("scale_by_learning_rate", learning_rate=0.3)),
    Case(
        "scale_by_learning_rate-keep",
        tx("scale_by_learning_rate", learning_rate=0.3, flip_sign=False),
    ),
    Case("scale_by_learning_rate-schedule", tx("scale_by_learning_rate", learning_rate=WARM)),
    Case("scale_by_schedule", tx("scale_by_schedule", step_size=WARM)),
    Case("clip", tx("clip", max_delta=0.4)),
    Case("clip_by_block_rms", tx("clip_by_block_rms", threshold=0.5)),
    Case("clip_by_global_norm", tx("clip_by_global_norm", max_norm=2.0)),
    Case(
        "adaptive_grad_clip",
        tx("adaptive_grad_clip", optax_only={"axis": 1}, clipping=0.3),
        "matrices",
    ),
    Case("adaptive_grad_clip-axis", tx("adaptive_grad_clip", clipping=0.3, axis=0), "matrices"),
    Case(
        "adaptive_grad_clip-axes",
        tx("adaptive_grad_clip", clipping=0.1, eps=1.5, axis=(1, 2)),
        "kernels",
    ),
    Case("normalize_by_update_norm", tx("normalize_by_update_norm")),
    Case(
        "normalize_by_update_norm-options",
        tx("normalize_by_update_norm", scale_factor=-0.5, eps=0.1),
    ),
    Case("centralize", tx("centralize")),
    Case("centralize-kernels", tx("centralize"), "kernels"),
    # Size of parameters.
    Case("scale_by_param_block_norm", tx("scale_by_param_block_norm")),
    Case("scale_by_param_block_norm-floor", tx("scale_by_param_block_norm", min_scale=1.5)),
    Case("scale_by_param_block_rms", tx("scale_by_param_block_rms")),
    Case("scale_by_param_block_rms-floor", tx("scale_by_param_block_rms", min_scale=0.6)),
    Case("scale_by_trust_ratio", tx("scale_by_trust_ratio")),
    Case(
        "scale_by_trust_ratio-options",
        tx("scale_by_trust_ratio", min_norm=1.2, trust_coefficient=0.3, eps=0.05),
    ),
    Case("add_decayed_weights", tx("add_decayed_weights", weight_decay=0.1)),
    Case("add_decayed_weights-mask", tx("add_decayed_weights", weight_decay=0.1, mask=LAYOUT)),
    Case("add_decayed_weights-schedule", tx("add_decayed_weights", weight_decay=WARM)),
    Case(
        "add_decayed_weights-schedule-mask",
        tx("add_decayed_weights", weight_decay=WARM, mask=LAYOUT),
    ),
    Case("keep_params_nonnegative", tx("keep_params_nonnegative")),
    Case("zero_nans", tx("zero_nans"), "broken"),
    # Moments.
    Case("trace", tx("trace", decay=0.9)),
    Case("trace-nesterov", tx("trace", decay=0.9, nesterov=True)),
    Case("ema", tx("ema", decay=0.9)),
    Case("ema-raw", tx("ema", decay=0.8, debias=False)),
    Case("scale_by_adam", tx("scale_by_adam")),
    Case("scale_by_adam-options", tx("scale_by_adam", b1=0.8, b2=0.95, eps=0.01, eps_root=0.02)),
    Case("scale_by_adam-nesterov", tx("scale_by_adam", b1=0.8, b2=0.95, nesterov=True)),
    Case(
        "scale_by_amsgrad",
        tx("scale_by_adam", optax="scale_by_amsgrad", ours_only={"amsgrad": "corrected"}),
    ),
    Case("scale_by_adamax", tx("scale_by_adamax")),
    Case("scale_by_adamax-options", tx("scale_by_adamax", b1=0.8, b2=0.9, eps=0.01)),
    Case("scale_by_rms", tx("scale_by_rms")),
    Case(
        "scale_by_rms-options",
        tx("scale_by_rms", decay=0.8, eps=0.01, initial_scale=0.5, eps_in_sqrt=False),
    ),
    Case("scale_by_rms-corrected", tx("scale_by_rms", bias_correction=True)),
    Case("scale_by_stddev", tx("scale_by_stddev", eps=1e-3)),
    Case(
        "scale_by_stddev-options",
        tx("scale_by_stddev", decay=0.8, eps=0.01, initial_scale=0.5, eps_in_sqrt=False),
    ),
    Case("scale_by_stddev-corrected", tx("scale_by_stddev", eps=1e-3, bias_correction=True)),
    Case("scale_by_rss", tx("scale_by_rss")),
    Case("scale_by_rss-options", tx("scale_by_rss", initial_accumulator_value=0.0, eps=0.01)),
    Case("scale_by_adadelta", tx("scale_by_adadelta")),
    Case("scale_by_adadelta-options", tx("scale_by_adadelta", rho=0.7, eps=0.01)),
    Case("scale_by_radam", tx("scale_by_radam")),
    Case("scale_by_radam-nesterov", tx("scale_by_radam", b2=0.95, threshold=4.0, nesterov=True)),
    Case(
        "scale_by_radam-options",
        tx("scale_by_radam", b1=0.8, b2=0.9, eps=0.01, eps_root=0.02, threshold=4.0),
    ),
    Case("scale_by_belief", tx("scale_by_belief", eps_root=1e-8)),
    Case(
        "scale_by_belief-options",
        tx("scale_by_belief", b1=0.8, b2=0.9, eps=0.01, eps_root=0.02, nesterov=True),
    ),
    Case("scale_by_yogi", tx("scale_by_yogi")),
    Case(
        "scale_by_yogi-options",
        tx("scale_by_yogi", b1=0.8, b2=0.9, eps=0.01, eps_root=0.02, initial_accumulator_value=0.1),
    ),
    Case("scale_by_novograd", tx("scale_by_novograd")),
    Case(
        "scale_by_novograd-options",
        tx("scale_by_novograd", b1=0.8, b2=0.9, eps=0.01, eps_root=0.02, weight_decay=0.1),
    ),
    Case("scale_by_adan", tx("scale_by_adan")),
    Case(
        "scale_by_adan-options",
        tx("scale_by_adan", b1=0.8, b2=0.9, b3=0.7, eps=0.01, eps_root=0.02),
    ),
    Case("scale_by_lion", tx("scale_by_lion")),
    Case("scale_by_lion-options", tx("scale_by_lion", b1=0.5, b2=0.7)),
    Case("scale_by_lion-smooth", tx("scale_by_lion", mode="smooth", smooth_beta=2.0)),
    Case("scale_by_lion-refined", tx("scale_by_lion", mode="refined")),
    Case("scale_by_sign", tx("scale_by_sign")),
    Case("scale_by_sm3", tx("scale_by_sm3"), "factored"),
    Case("scale_by_sm3-kernels", tx("scale_by_sm3", b1=0.5, b2=0.9, eps=0.01), "kernels"),
    Case(
        "scale_by_factored_rms",
        tx("scale_by_factored_rms", min_dim_size_to_factor=4),
        "factored",
        rtol=1e-6,  # Optax computes the decay rate in float32
    ),
    Case(
        "scale_by_factored_rms-kernels",
        tx("scale_by_factored_rms", min_dim_size_to_factor=2, decay_rate=0.7),
        "kernels",
        rtol=1e-6,
    ),
    Case("scale_by_factored_rms-small", tx("scale_by_factored_rms"), "factored", rtol=1e-6),
    Case(
        "scale_by_factored_rms-plain",
        tx("scale_by_factored_rms", factored=False, epsilon=0.01),
        "factored",
        rtol=1e-6,
    ),
    Case("scale_by_optimistic_gradient", tx("scale_by_optimistic_gradient", alpha=0.9, beta=0.7)),
    # Combinators.
    Case("chain", tx("chain", members=[tx("trace", decay=0.9), tx("scale", step_size=-0.1)])),
    Case(
        "multi_steps",
        tx(
            "multi_steps",
            optax="MultiSteps",
            transform=tx("chain", members=[tx("trace", decay=0.9), tx("scale", step_size=-0.1)]),
            every_k=3,
        ),
    ),
    Case(
        "multi_steps-schedule",
        tx("multi_steps", optax="MultiSteps", transform=tx("trace", decay=0.9), every_k=growing),
    ),
    Case(
        "multi_steps-sum",
        tx(
            "multi_steps",
            optax="MultiSteps",
            transform=tx("trace", decay=0.9),
            every_k=2,
            use_grad_mean=False,
        ),
    ),
    Case(
        "multi_steps-finite",
        tx(
            "multi_steps",
            optax="MultiSteps",
            transform=tx("trace", decay=0.9),
            every_k=2,
            should_skip_update_fn=function("skip_not_finite"),
        ),
        "broken",
    ),
    Case(
        "multi_steps-large",
        tx(
            "multi_steps",
            optax="MultiSteps",
            transform=tx("trace", decay=0.9),
            every_k=2,
            should_skip_update_fn=function(
                "skip_large", optax="skip_large_updates", max_squared_norm=50.0
            ),
        ),
    ),
    Case("sam", tx("sam", optimizer=tx("sgd", **LR, momentum=0.9), adv_optimizer=ADVERSARY)),
    Case(
        "sam-kept",
        tx(
            "sam",
            optimizer=tx("adam", **LR),
            adv_optimizer=tx("trace", decay=0.5),
            sync_period=3,
            reset_state=False,
        ),
    ),
    Case(
        "sam-opaque",
        tx(
            "sam",
            optimizer=tx("adam", **LR),
            adv_optimizer=ADVERSARY,
            sync_period=3,
            opaque_mode=True,
        ),
    ),
    Case("mechanize", tx("mechanize", transform=tx("sgd", learning_rate=1.0))),
    Case(
        "mechanize-options",
        tx(
            "mechanize",
            transform=tx("adam", **LR),
            weight_decay=0.1,
            eps=0.01,
            s_init=0.1,
            num_betas=3,
        ),
    ),
    Case(
        "differentially_private_aggregate",
        tx(
            "differentially_private_aggregate",
            l2_norm_clip=0.7,
            noise_multiplier=0.0,
            optax_only={"key": 0},
        ),
        "examples",
    ),
    Case(
        "inject_hyperparams",
        tx(
            "inject_hyperparams",
            transform="scale_by_rms",
            hyperparams={"decay": "following", "eps": WARM},
        ),
    ),
    Case("apply_every", tx("apply_every", k=3)),
    Case(
        "apply_if_finite",
        tx("apply_if_finite", transform=tx("trace", decay=0.9), max_consecutive_errors=2),
        "broken",
    ),
    Case("masked", tx("masked", transform=tx("trace", decay=0.9), mask=LAYOUT)),
    Case(
        "partition",
        tx(
            "partition",
            transforms={"a": tx("trace", decay=0.9), "b": tx("scale", step_size=3.0)},
            by=LABELS,
        ),
    ),
    Case(
        "lookahead",
        tx("lookahead", transform=tx("scale", step_size=-0.1), sync_period=3, slow_step_size=0.3),
    ),
    Case(
        "lookahead-reset",
        tx(
            "lookahead",
            transform=tx("trace", decay=0.9),
            sync_period=2,
            slow_step_size=0.3,
            reset_state=True,
        ),
    ),
]


RECIPES = [
    Case("adabelief", tx("adabelief", **LR, eps_root=1e-8)),
    Case("adadelta", tx("adadelta", **LR)),
    Case("adadelta-decay", tx("adadelta", **LR, rho=0.7, weight_decay=0.1)),
    Case(
        "adafactor",
        tx(
            "adafactor",
            **LR,
            min_dim_size_to_factor=4,
        ),
        "factored",
        rtol=1e-6,
    ),
    Case(
        "adafactor-options",
        tx(
            "adafactor",
            **LR,
            # Optax decays after the learning rate, here it comes before.
            optax_only={"dtype_momentum": "float64", "weight_decay_rate": 0.01},
            ours_only={"weight_decay": 0.1},
            min_dim_size_to_factor=4,
            momentum=0.9,
            clipping_threshold=0.5,
            multiply_by_parameter_scale=False,
        ),
        "factored",
        rtol=1e-6,
    ),
    Case("adagrad", tx("adagrad", **LR)),
    Case("adam", tx("adam", **LR)),
    Case("adam-schedule", tx("adam", learning_rate=WARM)),
    Case("adamw", tx("adamw", **LR, weight_decay=0.1)),
    Case("adamw-mask-nesterov", tx("adamw", **LR, weight_decay=0.1, mask=LAYOUT, nesterov=True)),
    Case("nadam", tx("nadam", **LR)),
    Case("nadamw", tx("nadamw", **LR, weight_decay=0.1)),
    Case("adan", tx("adan", **LR)),
    Case("adan-decay", tx("adan", **LR, weight_decay=0.1)),
    Case("adamax", tx("adamax", **LR)),
    Case("adamaxw", tx("adamaxw", **LR, weight_decay=0.1)),
    Case("amsgrad", tx("amsgrad", **LR)),
    Case("lamb", tx("lamb", **LR, weight_decay=0.1)),
    Case("lars", tx("lars", **LR, weight_decay=0.1)),
    Case("lars-nesterov", tx("lars", **LR, trust_coefficient=0.1, eps=0.01, nesterov=True)),
    Case("lion", tx("lion", **LR, weight_decay=0.1)),
    Case("novograd", tx("novograd", **LR, weight_decay=0.1)),
    Case("optimistic_gradient_descent", tx("optimistic_gradient_descent", **LR, alpha=0.9)),
    Case("radam", tx("radam", **LR, b2=0.95)),
    Case("rmsprop", tx("rmsprop", **LR)),
    Case("rmsprop-centered", tx("rmsprop", **LR, eps=1e-3, centered=True, momentum=0.9)),
    Case("rmsprop-nesterov", tx("rmsprop", **LR, decay=0.8, momentum=0.9, nesterov=True)),
    Case("sgd", tx("sgd", **LR)),
    Case("sgd-momentum", tx("sgd", **LR, momentum=0.9, nesterov=True)),
    Case("signsgd", tx("signsgd", optax="sign_sgd", **LR)),
    Case("signum", tx("signum", **LR, beta=0.8)),
    Case("sm3", tx("sm3", **LR), "factored"),
    Case("yogi", tx("yogi", **LR)),
]

LOSSES = [
    Case("acprop", tx("acprop", **LR, eps=1e-3, weight_decay=0.1)),
    Case("acprop-options", tx("acprop", **LR, b1=0.8, b2=0.9, eps=0.01, eps_root=0.02)),
    Case("cocob", tx("cocob", weight_decay=0.1)),
    Case("cocob-options", tx("cocob", learning_rate=0.5, alpha=3.0, eps=0.1)),
    Case("dadapt_adamw", tx("dadapt_adamw")),
    Case(
        "dadapt_adamw-options",
        tx(
            "dadapt_adamw",
            learning_rate=0.3,
            eps=0.01,
            weight_decay=0.1,
            optax_only={"betas": (0.8, 0.9), "estim_lr0": 0.01},
            ours_only={"b1": 0.8, "b2": 0.9, "d0": 0.01},
        ),
    ),
    Case("dog", tx("dog")),
    Case("dog-distance", tx("dog", init_step=("distance", 0.5), weight_decay=0.1)),
    Case("dog-rate", tx("dog", **LR, init_step=("learning_rate", 0.5), eps=0.1)),
    Case(
        "scale_by_distance_over_gradients",
        tx(
            "scale_by_distance_over_gradients",
            reps_rel=0.1,
            eps=0.2,
            optax_only={"param_dtype": "float64"},
        ),
    ),
    Case("dowg", tx("dowg")),
    Case(
        "dowg-options",
        tx(
            "dowg",
            **LR,
            eps=0.1,
            optax_only={"init_estim_sq_dist": 0.5},
            ours_only={"init_distance": 0.5},
        ),
    ),
    # Optax takes the root of the count in float32.
    Case("madgrad", tx("madgrad", **LR, weight_decay=0.1), rtol=1e-5),
    Case(
        "madgrad-schedule",
        tx("madgrad", learning_rate=WARM, momentum=0.5, eps=1e-3),
        rtol=1e-5,
    ),
    Case("fromage", tx("fromage", **LR)),
    Case("fromage-schedule", tx("fromage", learning_rate=WARM, min_norm=2.0)),
    Case("momo", tx("momo")),
    Case("momo-options", tx("momo", **LR, beta=0.8, lower_bound=-1.0, weight_decay=0.1)),
    Case("momo-adapt", tx("momo", lower_bound=-30.0, beta=0.5, adapt_lower_bound=True)),
    Case("momo_adam", tx("momo_adam")),
    Case(
        "momo_adam-adapt",
        tx(
            "momo_adam",
            learning_rate=WARM,
            b1=0.8,
            b2=0.9,
            eps=0.01,
            lower_bound=-30.0,
            weight_decay=0.1,
            adapt_lower_bound=True,
        ),
    ),
    Case("optimistic_adam", tx("optimistic_adam", optax="optimistic_adam_v2", **LR, alpha=0.9)),
    Case(
        "polyak_sgd",
        tx(
            "polyak_sgd",
            f_min=0.3,
            eps=0.1,
            # Optax scales before it takes the norm, so that ``scaling`` divides steps; here lr
            # multiplies them.
            optax_only={"max_learning_rate": 0.2},
            ours_only={"max_step": 0.2},
        ),
    ),
    Case(
        "polyak_sgd-plus",
        tx(
            "polyak_sgd",
            f_min=2.0,
            variant="sps+",
            optax_only={"max_learning_rate": 9.0},
            ours_only={"max_step": 9.0},
        ),
    ),
    Case("reduce_on_plateau", tx("reduce_on_plateau", factor=0.5, patience=1)),
    Case(
        "reduce_on_plateau-options",
        tx(
            "reduce_on_plateau",
            factor=0.3,
            patience=1,
            rtol=0.1,
            atol=0.1,
            cooldown=1,
            accumulation_size=2,
            min_scale=0.2,
        ),
    ),
]

TRAJECTORIES = [*TRANSFORMS, *RECIPES, *LOSSES]
