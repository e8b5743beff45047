"""MicroAdam against its description, and what it promises."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import gradtx as gx

from .microadam_steps import MicroAdamSteps

seeds = st.integers(0, 2**32 - 1)


def draws(seed: int, steps: int, shape: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def run(tx: Any, params: Any, grads: list[Any], state: Any = None) -> tuple[Any, Any]:
    state = tx.init(params) if state is None else state
    for g in grads:
        updates, state = tx.update(g, state, params)
        params = gx.apply_updates(params, updates)
    return params, state


@given(
    seeds,
    st.sampled_from([(), (1,), (37,), (5, 13), (2, 3, 4)]),
    st.sampled_from([0.05, 0.3, 1.0]),
    st.sampled_from([1, 3, 4]),
    st.sampled_from([5, 16, 64]),
    st.sampled_from([2, 6, 64]),
    st.sampled_from([0.0, 0.25, -2]),
    st.booleans(),
)
def test_description(
    seed: int,
    shape: tuple[int, ...],
    density: float,
    window: int,
    block_size: int,
    quant_block_size: int,
    alpha: float,
    windowed: bool,
) -> None:
    p, *grads = draws(seed, 9, shape)
    options: dict[str, Any] = {
        "weight_decay": 0.1,
        "density": density,
        "window": window,
        "block_size": block_size,
        "quant_block_size": quant_block_size,
        "alpha": alpha,
    }
    hand = MicroAdamSteps(p.numpy().reshape(-1).copy(), window_correction=windowed, **options)
    tx = gx.microadam(
        0.01,
        state_dtype=torch.float32,
        bias_correction="window" if windowed else "steps",
        **options,
    )
    params, state = p, None
    for g in grads:
        hand.step(g.numpy().reshape(-1).copy())
        params, state = run(tx, params, [g], state)
        np.testing.assert_allclose(params.numpy().reshape(-1), hand.p, rtol=2e-5, atol=2e-6)


def test_density_one_is_adam_while_the_window_lasts() -> None:
    """Until a gradient leaves the window; then what is older is missing."""
    p, *grads = draws(0, 8, (6, 5))
    options = {"density": 1.0, "state_dtype": torch.float32}
    adam = gx.chain(gx.scale_by_adam(), gx.scale(-0.01))
    tx = gx.microadam(0.01, window=6, **options)
    torch.testing.assert_close(run(tx, p, grads[:6])[0], run(adam, p, grads[:6])[0])
    early, late = run(tx, p, grads)[0], run(adam, p, grads)[0]
    assert (early - late).abs().max() > 1e-4


def test_window_correction_weighs_a_full_window_as_adam() -> None:
    """Of a constant gradient the step stays one, where the published correction lets it grow."""
    g, p = torch.ones(4), torch.zeros(4)
    sizes = {}
    for how in ("steps", "window"):
        tx = gx.microadam(1.0, density=1.0, window=5, bias_correction=how)
        state = tx.init(p)
        for _ in range(100):
            update, state = tx.update(g, state, p)
        sizes[how] = -update[0].item()
    assert sizes["window"] == pytest.approx(1, abs=1e-5)
    weights = {b: (1 - b**5) / (1 - b**100) for b in (0.9, 0.999)}
    assert sizes["steps"] == pytest.approx(weights[0.9] / math.sqrt(weights[0.999]), rel=1e-5)


def test_state_is_what_the_description_lists() -> None:
    tx = gx.microadam()
    state = tx.init({"w": torch.zeros(1000, 1000, dtype=torch.bfloat16)})
    found = {name: gx.tree.get(state, name) for name in ("indices", "values", "codes", "lo", "hi")}
    kept = 61 * 164 + 6  # 61 blocks of 16384 and one of 576
    shapes = {k: (tuple(x.shape), x.dtype) for k, x in found.items()}
    assert shapes == {
        "indices": ((10, kept), torch.int16),
        "values": ((10, kept), torch.bfloat16),
        "codes": ((500_000,), torch.uint8),
        "lo": ((15_625,), torch.bfloat16),
        "hi": ((15_625,), torch.bfloat16),
    }
    assert gx.tree.get(state, "step").dtype == torch.int32
    # 0.9625 of the formula, and 164 instead of 163.84 entries of a block.
    assert gx.codecs.nbytes(state) / 1e6 < 0.9630


def test_missing_gradient_keeps_the_age() -> None:
    """A leaf that was left out continues as if that step had not been."""
    p, *grads = draws(1, 6, (40,))
    tx = gx.microadam(0.1, density=0.2, window=3)
    want, want_state = run(tx, {"a": p, "b": p}, [{"a": g, "b": g} for g in grads])
    gaps = [{"a": g, "b": g} for g in grads[:2]]
    gaps += [{"a": g, "b": None} for g in grads[2:4]]
    gaps += [{"a": None, "b": g} for g in grads[2:4]]
    gaps += [{"a": g, "b": g} for g in grads[4:]]
    got, got_state = run(tx, {"a": p, "b": p}, gaps)
    assert all(torch.equal(got[k], want[k]) for k in want)
    pairs = zip(gx.tree.leaves(got_state), gx.tree.leaves(want_state), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_zero_size_leaf() -> None:
    p = {"empty": torch.zeros(0, 3), "w": torch.ones(5)}
    out, _ = run(gx.microadam(0.1), p, [p, p])
    assert out["empty"].shape == (0, 3)
    assert (out["w"] != 1).any()


def test_stochastic_rounding_depends_on_seed_and_leaf() -> None:
    p, *grads = draws(2, 4, (64,))
    both = [{"a": g, "b": g} for g in grads]

    def codes(seed: int) -> dict[str, Tensor]:
        tx = gx.microadam(0.1, rounding="stochastic", seed=seed)
        return gx.tree.get_all(run(tx, {"a": p, "b": p}, both)[1], "codes")

    first, other = list(codes(0).values()), list(codes(1).values())
    assert all(map(torch.equal, first, codes(0).values()))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_scaled_and_exact_requantisation_agree_with_float32_ranges() -> None:
    p, *grads = draws(3, 6, (64,))
    options = {"alpha": 0.3, "density": 0.1, "state_dtype": torch.float32}
    exact = run(gx.microadam(0.1, requantize="exact", **options), p, grads)
    scale = run(gx.microadam(0.1, requantize="scale", **options), p, grads)
    torch.testing.assert_close(exact[0], scale[0])
    assert torch.equal(gx.tree.get(exact[1], "codes"), gx.tree.get(scale[1], "codes"))


# -- non-finite gradients ----------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_gradient_raises(bad: float) -> None:
    params = {"a": torch.ones(8), "b": torch.ones(8)}
    tx = gx.microadam(0.1)
    _, state = run(tx, params, [params])
    g = {"a": torch.ones(8), "b": torch.tensor([bad] + [1.0] * 7)}
    with pytest.raises(ValueError, match="leaf 'b': the update has a NaN or an infinity"):
        tx.update(g, state, params)


def test_non_finite_gradient_is_skipped() -> None:
    p, *grads = draws(4, 5, (40,))
    tx = gx.microadam(0.1, weight_decay=0.1, density=0.2, nonfinite="skip")
    want, want_state = run(tx, {"a": p, "b": p}, [{"a": g, "b": g} for g in grads])
    spoilt = torch.full((40,), math.nan)
    broken = [{"a": g, "b": g} for g in grads[:2]] + [{"a": spoilt, "b": None}]
    got, got_state = run(tx, {"a": p, "b": p}, broken + [{"a": g, "b": g} for g in grads[2:]])
    assert all(torch.equal(got[k], want[k]) for k in want)
    pairs = zip(gx.tree.leaves(got_state), gx.tree.leaves(want_state), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


# -- as a torch optimizer ----------------------------------------------------------------------


def model(dtype: torch.dtype = torch.bfloat16) -> list[torch.nn.Parameter]:
    shapes = ((70, 9), (33,), ())
    return [torch.nn.Parameter(draws(i, 1, s)[0].to(dtype)) for i, s in enumerate(shapes)]


def train(opt: Any, params: list[torch.nn.Parameter], steps: range) -> None:
    for t in steps:
        for i, p in enumerate(params):
            p.grad = draws(100 * t + i, 1, tuple(p.shape))[0].to(p.dtype)
        opt.step()


@pytest.mark.parametrize(
    "options", [{}, {"alpha": 0.2, "parity": True}, {"rounding": "stochastic"}], ids=str
)
def test_resumes_to_the_bit(options: dict[str, Any]) -> None:
    """int16 positions beyond 256 and uint8 codes survive bfloat16 parameters."""
    params = model()
    opt = gx.optim.MicroAdam(params, lr=0.1, density=0.05, window=3, **options)
    train(opt, params, range(4))
    assert gx.tree.get_all(opt.state[params[0]], "indices").popitem()[1].max() > 256
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    twins = [torch.nn.Parameter(p.detach().clone()) for p in params]
    twin = gx.optim.MicroAdam(twins, lr=0.5, density=0.05, window=3, **options)
    twin.load_state_dict(torch.load(file, weights_only=True))
    train(opt, params, range(4, 9))
    train(twin, twins, range(4, 9))
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))
    for a, b in zip(params, twins, strict=True):
        kept, loaded = (gx.tree.leaves(o.state[x]) for o, x in ((opt, a), (twin, b)))
        assert [x.dtype for x in kept] == [x.dtype for x in loaded]
        assert all(map(torch.equal, kept, loaded))


def test_class_is_the_recipe() -> None:
    params = model(torch.float32)
    opt = gx.optim.MicroAdam(
        params, lr=0.1, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1, alpha=0.2
    )
    start = {str(i): p.detach().clone() for i, p in enumerate(params)}
    train(opt, params, range(3))
    grads = [
        {str(i): draws(100 * t + i, 1, tuple(p.shape))[0] for i, p in enumerate(params)}
        for t in range(3)
    ]
    tx = gx.microadam(0.1, 0.8, 0.9, 1e-4, weight_decay=0.1, alpha=0.2)
    want, _ = run(tx, start, grads)
    for i, p in enumerate(params):
        torch.testing.assert_close(p.detach(), want[str(i)], rtol=1e-6, atol=1e-7)


def test_groups_have_their_own_options() -> None:
    a, b = model(torch.float32)[:2]
    opt = gx.optim.MicroAdam(
        [{"params": [a], "window": 2}, {"params": [b], "density": 0.5}], lr=0.1
    )
    train(opt, [a, b], range(2))
    rows = [gx.tree.get_all(opt.state[p], "values").popitem()[1].shape for p in (a, b)]
    assert rows == [(2, 7), (10, 17)]


def test_nothing_changes_when_the_class_raises() -> None:
    params = model()
    opt = gx.optim.MicroAdam(params, lr=0.1)
    train(opt, params, range(2))
    before = [p.detach().clone() for p in params]
    params[1].grad[3] = math.inf
    with pytest.raises(ValueError, match="leaf '1'"):
        opt.step()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))


# -- bad arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0}, "window must be an integer >= 1, got 0"),
        ({"density": 0.0}, r"density must be in \(0, 1\], got 0.0"),
        ({"density": 1.1}, r"density must be in \(0, 1\], got 1.1"),
        ({"quant_block_size": 63}, "quant_block_size must be an even integer >= 2, got 63"),
        ({"quant_block_size": 0}, "quant_block_size must be an even integer >= 2, got 0"),
        ({"block_size": 0}, r"block_size must be an integer in \[1, 32767\], got 0"),
        ({"block_size": 40000}, r"block_size must be an integer in \[1, 32767\], got 40000"),
        ({"alpha": 1.0}, r"alpha must be in \[0, 1\) or -2, got 1.0"),
        ({"alpha": -1}, r"alpha must be in \[0, 1\) or -2, got -1"),
        ({"eps": 0.0}, r"eps must be in \(0, inf\), got 0.0"),
        ({"b1": 1.0}, r"b1 must be in \[0, 1\), got 1.0"),
        ({"b2": -0.1}, r"b2 must be in \[0, 1\), got -0.1"),
        ({"lr": -1.0}, r"lr must be in \[0, inf\), got -1.0"),
        ({"weight_decay": -1.0}, r"weight_decay must be in \[0, inf\), got -1.0"),
        ({"bias_correction": "none"}, "bias_correction must be 'steps' or 'window', got 'none'"),
        ({"rounding": "up"}, "rounding must be 'nearest' or 'stochastic', got 'up'"),
        ({"requantize": "no"}, "requantize must be 'exact' or 'scale', got 'no'"),
        ({"state_dtype": torch.float16}, "state_dtype must be torch.float32 or torch.bfloat16"),
        ({"nonfinite": "keep"}, "otherwise must be 'raise' or 'skip', got 'keep'"),
        ({"parity": True, "lr": None}, "parity needs lr"),
        ({"alpha": -2, "lr": None}, "alpha=-2 needs lr"),
        ({"seed": 1.5}, "seed must be a 64-bit integer, got 1.5"),
    ],
)
def test_bad_arguments(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gx.microadam(**options)


@pytest.mark.parametrize(
    "other", [{"window": 4}, {"density": 0.5}, {"block_size": 7}, {"quant_block_size": 8}], ids=str
)
def test_a_state_for_other_sizes_is_an_error(other: dict[str, Any]) -> None:
    options: dict[str, Any] = {"window": 3, "density": 0.1, "block_size": 32, "quant_block_size": 4}
    p = torch.ones(50)
    state = gx.microadam(**options).init(p)
    with pytest.raises(gx.TreeMismatchError, match=r"has shape|has 1 entries|entries in each"):
        gx.microadam(**{**options, **other}).update(p, state, p)


def test_the_class_takes_names_of_dtypes() -> None:
    params = model()
    opt = gx.optim.MicroAdam(params, lr=0.1, state_dtype="float32")
    train(opt, params, range(1))
    assert gx.tree.get_all(opt.state[params[0]], "lo").popitem()[1].dtype == torch.float32
    with pytest.raises(ValueError, match=r"state_dtype must be .*, got 'half_'"):
        gx.optim.MicroAdam(params, state_dtype="half_")
