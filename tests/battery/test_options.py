"""Options that choose structure: wrong ones are refused by name when a transform is made."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import gradtx as gx
from gradtx import recipes
from gradtx.core.protocol import GradientTransformation
from gradtx.testing.options import BAD, RAW, refusal_of

PARTS = [
    gx.codecs.affine(4),
    gx.codecs.affine_rows(),
    gx.codecs.blockwise(8),
    gx.codecs.dense(torch.bfloat16),
    gx.codecs.dynamic8(),
    gx.codecs.rank1(),
    gx.codecs.symmetric(4),
    gx.compressors.block_top_k(0.5, 4),
    gx.compressors.low_rank(1),
    gx.compressors.power_iteration(0.5),
    gx.compressors.random_k(0.5),
    gx.compressors.sign(),
    gx.compressors.threshold(1.0),
    gx.compressors.top_columns(1),
    gx.compressors.top_k(0.5),
    gx.subspace.one_based(2),
    gx.subspace.svd(1),
    gx.subspace.gaussian(1),
    gx.subspace.dct(1),
    gx.schedules.linear(1.0, 0.0, 4),
    gx.schedules.cosine_decay(1.0, 4),
    gx.schedules.piecewise_constant(1.0, {1: 0.5}),
    gx.multi_steps(gx.scale(1.0)),
    gx.lookahead(gx.scale(1.0)),
    gx.apply_if_finite(gx.scale(1.0)),
    gx.skip_large_updates(gx.scale(1.0), 1.0),
    gx.as_matrices(gx.scale(1.0)),
    gx.split_rows(gx.scale(1.0), blocks=2),
    gx.in_basis(gx.scale(1.0)),
    gx.masked(gx.scale(1.0), {"w": True}),
]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_wrong_options_of_parts(part: Any) -> None:
    who = part.name if isinstance(part, GradientTransformation) else type(part).__name__
    for field in dataclasses.fields(part):
        for bad in BAD:
            error = refusal_of(partial(dataclasses.replace, part, **{field.name: bad}))
            if error is not None:
                assert re.match(rf"(schedules\.)?{who}: ", error), (field.name, bad, error)
                assert not RAW.search(error), (field.name, bad, error)


RECIPES = {
    "apollo": {"scale": ["x", None, ()], "proj": [{}, 3]},
    "dct_adamw": {"max_shape": ["x", None, 2.5]},
    "galore_adamw": {"proj": [{}, [], 0.5]},
    "ldadamw": {"proj_method": [{}, 1]},
    "microadam": {"alpha": ["x", None, math.nan]},
    "muon": {"other": ["x", {}, 1], "ns_dtype": ["bfloat16", 1]},
    "rmsprop": {"initial_scale": [-1.0, math.nan, math.inf]},
    "schedule_free_adamw": {"b2": [1.0, math.nan]},
    "trion": {"scaling_type": [{}, 1]},
    "ademamix": {"t_alpha": [math.nan, "x"]},
    "adopt": {"clip": [math.nan, "x"]},
    "scale_by_yogi": {"initial_accumulator_value": [math.inf, "x"]},
}


@pytest.mark.parametrize("name", RECIPES)
def test_wrong_options_of_recipes(name: str) -> None:
    for option, values in RECIPES[name].items():
        for bad in values:
            with pytest.raises((TypeError, ValueError), match=r"^\w+: .*(must|needs)") as caught:
                getattr(gx, name)(0.1, **{option: bad})
            assert not RAW.search(str(caught.value))


def _made(recipe: Any, option: str, value: Any) -> Any:
    """A chain, or which error there is instead."""
    needed = {"inner": gx.sgd(0.1)} if "inner" in inspect.signature(recipe).parameters else {}
    try:
        return recipe(**{**needed, option: value})
    except (TypeError, ValueError) as error:
        return type(error), str(error).partition(", got")[0]


@pytest.mark.parametrize("name", recipes.__all__)
def test_numbers_of_any_type_make_the_same_chain(name: str) -> None:
    """A zero of NumPy leaves out what a zero leaves out."""
    recipe = getattr(recipes, name)
    for option, parameter in inspect.signature(recipe).parameters.items():
        if isinstance(parameter.default, (bool, str)) or option in ("mask", "inner"):
            continue
        for value, kind in ((0.0, np.float32), (0.5, np.array), (0.5, Fraction), (2, np.int64)):
            assert _made(recipe, option, kind(value)) == _made(recipe, option, value), option


SIZES: dict[str, Any] = {
    "hutchinson": lambda n: gx.meta.hutchinson(torch.sum, torch.ones(2), probes=n),
    "zero_order": lambda n: gx.meta.zero_order(torch.sum, samples=n),
    "truncated": lambda n: list(
        gx.meta.truncated(lambda c, _: (c, c), torch.ones(1), length=n, window=n)
    ),
    "cg": lambda n: gx.meta.cg(lambda x: x, torch.ones(2), maxiter=n),
    "microbatch": lambda n: gx.meta.microbatch(torch.sub, argnums=n, size=n),
    "periodic_update": lambda n: gx.periodic_update(torch.ones(1), torch.zeros(1), n, period=n),
    "obc_prune": lambda n: gx.sparsity.obc_prune(torch.ones(1, 3), torch.eye(3), n),
    "inverse_fisher": lambda n: gx.sparsity.inverse_fisher(torch.ones(2, 3), 1.0, block=n),
    "phases": lambda n: gx.sparsity.phases(("dense", n)),
    "mt_dao": lambda n: gx.distributed.mt_dao(every=n, every_first=n),
    "step_in_backward": lambda n: gx.optim.step_in_backward(
        gx.optim.SGD([torch.nn.Parameter(torch.ones(1))]), every=n
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_integers_of_numpy_are_integers(name: str) -> None:
    SIZES[name](np.int64(2))


def test_masks_are_functions_or_booleans() -> None:
    for bad in ("x", 0.5, {"w": "yes"}):
        for make in (lambda m: gx.masked(gx.scale(1.0), m), gx.freeze):
            with pytest.raises(TypeError, match="mask must be a function"):
                make(bad)
