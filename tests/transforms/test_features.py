"""Features of the composable optimizers: every pair works, and what excludes what says so."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

import gradtx as gx

MASKS = ("cautious", "grams", "atan2")
SHARED = ("factored", "orthograd", "stochastic_rounding")
FEATURES: Mapping[str, tuple[str, ...]] = {
    "adam_adv": (*SHARED, "ademamix", *MASKS),
    "adopt_adv": (*SHARED, "ademamix", "simplified_ademamix", *MASKS),
    "prodigy_adv": (*SHARED, "ademamix", "simplified_ademamix", *MASKS),
    "simplified_ademamix": SHARED,
    "lion_adv": (*SHARED, "cautious"),
    "prodigy_lion_adv": (*SHARED, "cautious"),
}
EXCLUSIVE = {("cautious", "grams")} | {
    ("simplified_ademamix", f) for f in ("ademamix", "cautious", "grams", "atan2")
}
OFF = dict.fromkeys(("factored", "stochastic_rounding"), False)


def exclude(a: str, b: str) -> bool:
    return (a, b) in EXCLUSIVE or (b, a) in EXCLUSIVE


def build(name: str, features: tuple[str, ...], **options: Any) -> gx.GradientTransformation:
    recipe: Callable[..., gx.GradientTransformation] = getattr(gx, name)
    if name.startswith("prodigy"):
        options.setdefault("d0", 1.0)  # so that the first steps move bfloat16 parameters too
    return recipe(**{**OFF, **dict.fromkeys(features, True)}, **options)


PAIRS = [
    (name, (a, b))
    for name, features in FEATURES.items()
    for a, b in itertools.combinations(features, 2)
]
ALONE = [(name, (a,)) for name, features in FEATURES.items() for a in features]
# As many features at once as go together.
MOST = [
    (name, tuple(f for f in features if f not in without))
    for name, features in FEATURES.items()
    for without in (
        ("grams", "simplified_ademamix"),
        ("cautious", "simplified_ademamix"),
        ("ademamix", *MASKS),
    )
    if set(without) & set(features) or without == ("grams", "simplified_ademamix")
]


def problem(dtype: torch.dtype) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (12, 20), "conv": (3, 2, 2, 5), "vector": (7,), "scalar": ()}

    def draw(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    params = {name: draw(shape) for name, shape in shapes.items()}
    grads = [{name: draw(shape) for name, shape in shapes.items()} for _ in range(4)]
    return params, lambda t: grads[t]


def run(tx: gx.GradientTransformation, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    params, grads = problem(dtype)
    state = tx.init(params)
    for t in range(4):
        updates, state = tx.update(grads(t), state, params)
        params = gx.apply_updates(params, updates)
    return params


def named(case: tuple[str, tuple[str, ...]]) -> str:
    return f"{case[0]}-{'-'.join(case[1])}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", PAIRS, ids=named)
def test_every_pair_works_or_says_why_not(
    case: tuple[str, tuple[str, str]], dtype: torch.dtype
) -> None:
    name, pair = case
    if exclude(*pair):
        with pytest.raises(ValueError, match=rf"{name}.*(exclude each other)"):
            build(name, pair)
        return
    before, _ = problem(dtype)
    after = run(build(name, pair, lr=0.1), dtype)
    for leaf, p in after.items():
        assert p.dtype == dtype
        assert torch.isfinite(p).all(), leaf
        assert leaf == "scalar" or not torch.equal(p, before[leaf]), leaf


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", [*ALONE, *MOST], ids=named)
def test_fused_gives_the_same(case: tuple[str, tuple[str, ...]], dtype: torch.dtype) -> None:
    # The first steps of simplified_ademamix are 100 times as long as Adam's.
    tx = build(*case, lr=1e-3 if "simplified_ademamix" in (case[0], *case[1]) else 0.1)
    want = run(tx, dtype)
    params, grads = problem(dtype)
    step, state = gx.fuse(tx), tx.init(params)
    for t in range(4):
        params, state = step(params, grads(t), state)
    for leaf, p in params.items():
        # A rounded bfloat16 parameter may fall on the neighbour.
        tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2}
        torch.testing.assert_close(p, want[leaf], **{"atol": 1e-2, **tolerance})


@pytest.mark.parametrize("name", ["lion_adv", "simplified_ademamix", "prodigy_lion_adv"])
@pytest.mark.parametrize("feature", ["grams", "ademamix", "atan2"])
def test_a_feature_that_an_optimizer_lacks_is_no_argument(name: str, feature: str) -> None:
    with pytest.raises(TypeError, match=feature):
        build(name, (feature,))


@pytest.mark.parametrize("name", ["adopt_adv", "prodigy_adv"])
def test_simplified_ademamix_needs_a_momentum(name: str) -> None:
    with pytest.raises(ValueError, match="needs b1 > 0"):
        build(name, ("simplified_ademamix",), b1=0.0)


@pytest.mark.parametrize("name", ["adam_adv", "adopt_adv", "prodigy_adv"])
@pytest.mark.parametrize("mask", ["cautious", "grams"])
def test_without_a_momentum_masks_do_nothing(name: str, mask: str) -> None:
    masked = run(build(name, ("factored", mask), b1=0.0, lr=0.1), torch.float32)
    plain = run(build(name, ("factored",), b1=0.0, lr=0.1), torch.float32)
    for leaf, p in masked.items():
        assert torch.equal(p, plain[leaf])


def test_the_codec_wins_over_factored() -> None:
    params, _ = problem(torch.float32)
    tx = gx.adam_adv(factored=True, codec=torch.bfloat16)
    moments = gx.tree.get_all(tx.init(params)["quotient"]["denominator"], "nu")
    assert len(moments) == len(params)
    assert all(nu.dtype == torch.bfloat16 for nu in moments.values())
