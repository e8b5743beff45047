"""Affine and symmetric quantisation as codecs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import gradtx as gx
from gradtx import codecs
from gradtx.core.random import make_key
from gradtx.ops import dequantize_symmetric, quantize_symmetric

seeds = st.integers(0, 2**32 - 1)
CODECS = [codecs.affine, codecs.symmetric]


def draw(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def round_trip(codec: codecs.Codec, x: Tensor) -> Tensor:
    return codec.decode(codec.encode(x, codec.init(x, signed=True)), like=x)


@pytest.mark.parametrize("make", CODECS)
@given(
    seeds,
    st.sampled_from([2, 4, 8]),
    st.sampled_from([1, 3, 64]),
    st.sampled_from(["nearest", "stochastic"]),
    st.sampled_from([(), (0,), (7,), (5, 9)]),
)
def test_error_is_bounded_by_the_step(
    make: Any, seed: int, bits: int, block: int, rounding: str, shape: tuple[int, ...]
) -> None:
    x = draw(seed, shape)
    y = round_trip(make(bits, block, rounding), x)
    assert y.shape == x.shape
    share = (0.5 if rounding == "nearest" else 1.0) * (1 + 1e-5)
    for old, new in zip(x.reshape(-1).split(block), y.reshape(-1).split(block), strict=True):
        if not old.numel():
            continue
        levels = 2**bits - 1 if make is codecs.affine else 2 ** (bits - 1) - 1
        spread = old.max() - old.min() if make is codecs.affine else old.abs().max()
        assert (old - new).abs().max() <= share * spread / levels + 1e-6


@given(seeds, st.sampled_from([2, 4, 8]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_symmetric_formula(seed: int, bits: int, dtype: torch.dtype) -> None:
    x = draw(seed, (40,))
    codes, scale = quantize_symmetric(x, bits, 8, False, None, dtype)
    top = 2 ** (bits - 1) - 1
    step = (x.reshape(5, 8).abs().amax(1) / top).to(dtype).float()
    assert torch.equal(scale.float(), step)
    level = (x.reshape(5, 8) / step[:, None]).round().clamp(-top, top)
    decoded = dequantize_symmetric(codes, scale, bits, 8, 40, torch.float32)
    assert torch.equal(decoded, (level * step[:, None]).reshape(-1))
    stored = [
        int(c) >> shift & (2**bits - 1) for c in codes for shift in range(8 - bits, -1, -bits)
    ]
    assert stored == (level.reshape(-1) + top + 1).int().tolist()


def test_symmetric_halves_go_to_even() -> None:
    x = torch.tensor([7.0, 0.5, 1.5, 2.5, -0.5, -1.5])
    assert round_trip(codecs.symmetric(4), x).tolist() == [7.0, 0.0, 2.0, 2.0, 0.0, -2.0]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scale", [torch.float32, torch.bfloat16])
def test_symmetric_stochastic_rounding_is_unbiased(bits: int, scale: torch.dtype) -> None:
    x = draw(0, (32,))
    total = torch.zeros(32)
    for i in range(20):
        q = quantize_symmetric(x.repeat(100), bits, 16, True, make_key(3, i), scale)
        total += dequantize_symmetric(*q, bits, 16, 3200, torch.float32).view(100, 32).sum(0)
    step = q[1].float()[:2].repeat_interleave(16)
    assert ((total / 2000 - x).abs() <= 0.06 * step).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_symmetric_keeps_what_is_not_finite_in_its_block(bad: float) -> None:
    x = torch.ones(8)
    x[5] = bad
    y = round_trip(codecs.symmetric(4, 4), x)
    assert y[:4].tolist() == [1.0] * 4
    assert y[4:].isnan().all()


def test_zero_can_be_exact() -> None:
    x = torch.tensor([-0.37, 0.0, 1.0, 0.2])
    assert round_trip(codecs.affine(4), x)[1] != 0
    assert round_trip(codecs.affine(4, include_zero=True), x)[1] == 0
    assert round_trip(codecs.symmetric(4), x)[1] == 0


@pytest.mark.parametrize("make", CODECS)
def test_random_numbers_move_on_and_differ_between_leaves(make: Any) -> None:
    x = draw(0, (200,))
    codec = make(4, rounding="stochastic")
    first = codec.encode(x, codec.init(x, signed=True))
    again = codec.encode(x, first)
    other = codec.for_leaf("w")
    elsewhere = other.encode(x, other.init(x, signed=True))
    assert not torch.equal(first.codes, again.codes)
    assert not torch.equal(first.codes, elsewhere.codes)
    assert make(4).for_leaf("w") == make(4)
    assert make(4).init(x, signed=True).key == ()


@pytest.mark.parametrize("make", CODECS)
def test_rescale(make: Any) -> None:
    x, codec = draw(0, (50,)), make(4, 8)
    enc = codec.encode(x, codec.init(x, signed=True))
    scaled = codec.rescale(enc, 0.25, x)
    assert torch.equal(scaled.codes, enc.codes)
    torch.testing.assert_close(codec.decode(scaled, x), 0.25 * codec.decode(enc, x))
    dense = codecs.dense()
    assert torch.equal(dense.rescale(x, 0.25, x), 0.25 * x)


@pytest.mark.parametrize("make", CODECS)
def test_moments_may_use_them(make: Any) -> None:
    p = torch.zeros(64)
    grads = [draw(seed, (64,)) for seed in range(5)]
    exact, coarse = gx.trace(0.9), gx.trace(0.9, codec=make(8))
    states = [exact.init(p), coarse.init(p)]
    for g in grads:
        want, states[0] = exact.update(g, states[0])
        got, states[1] = coarse.update(g, states[1])
    torch.testing.assert_close(got, want, rtol=0, atol=0.1)


@pytest.mark.parametrize("make", CODECS)
def test_bad_arguments(make: Any) -> None:
    name = make.__name__
    for options, words in (
        ({"bits": 3}, "bits must be 2, 4 or 8, got 3"),
        ({"block_size": 0}, "block_size must be an integer >= 1, got 0"),
        ({"rounding": "up"}, "rounding must be 'nearest' or 'stochastic', got 'up'"),
        ({"stats_dtype": torch.float16}, "stats_dtype must be torch.float32 or torch.bfloat16"),
        ({"seed": "x"}, "seed must be a 64-bit integer"),
    ):
        with pytest.raises(ValueError, match=f"{name}: {words}"):
            make(**options)
    enc = make().init(torch.zeros(10), signed=True)
    with pytest.raises(gx.TreeMismatchError, match=f"{name}: codes has shape"):
        make().decode(enc, torch.zeros(12))
