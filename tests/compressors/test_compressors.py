"""What compressors keep and drop."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import gradtx as gx
from gradtx import compressors as c

seeds = st.integers(0, 2**32)
shapes = st.sampled_from([(), (1,), (7,), (64,), (5, 13), (3, 4, 6), (0,), (2, 0)])
densities = st.sampled_from([0.01, 0.07, 0.3, 0.5, 1.0])
blocks = st.sampled_from([1, 2, 5, 16, 1000])


def draw(seed: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Rounded numbers, so that magnitudes tie."""
    generator = torch.Generator().manual_seed(seed)
    return (4 * torch.randn(shape, generator=generator)).round().to(dtype) / 2


def kept_of(compressor: c.Compressor, x: Tensor) -> Any:
    return compressor.compress(x, compressor.init(x))[0]


def by_hand(flat: list[float], size: int, density: float) -> list[int]:
    """Positions in the leaf, block by block, from sorting."""
    chosen = []
    for start in range(0, len(flat), size):
        block = flat[start : start + size]
        order = sorted(range(len(block)), key=lambda i: (-abs(block[i]), i))
        chosen += sorted(start + i for i in order[: math.ceil(len(block) * density)])
    return chosen


@given(seeds, shapes, densities, blocks)
def test_block_top_k(seed: int, shape: tuple[int, ...], density: float, size: int) -> None:
    x = draw(seed, shape)
    payload = kept_of(c.block_top_k(density, size), x)
    starts = 0 if payload.offsets is None else payload.offsets
    where = payload.indices.long() + starts
    assert payload.indices.dtype == torch.int16
    assert where.tolist() == by_hand(x.flatten().tolist(), size, density)
    assert torch.equal(payload.values, x.flatten()[where])


@given(seeds, shapes, densities)
def test_top_k(seed: int, shape: tuple[int, ...], density: float) -> None:
    x = draw(seed, shape)
    payload = kept_of(c.top_k(density), x)
    want = by_hand(x.flatten().tolist(), max(x.numel(), 1), density)
    assert payload.indices.tolist() == want
    assert kept_of(c.top_k(k=2), x).indices.numel() == min(2, x.numel())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_top_k_of_every_dtype(dtype: torch.dtype) -> None:
    x = draw(3, (50,), dtype)
    want = by_hand(x.tolist(), 50, 0.2)
    assert kept_of(c.top_k(0.2), x).indices.tolist() == want


def test_density_is_counted_in_float64() -> None:
    assert c.block_top_k(0.07, 100).blocks(100).k == math.ceil(100 * 0.07) == 8


def test_what_is_not_finite_is_kept_first() -> None:
    x = torch.tensor([1.0, math.inf, 5.0, math.nan, -math.inf])
    assert kept_of(c.top_k(k=1), x).indices.tolist() == [3]
    assert kept_of(c.top_k(k=2), x).indices.tolist() == [1, 3]


SOME: list[c.Compressor] = [
    c.identity(),
    c.top_k(0.3),
    c.block_top_k(0.3, 5),
    c.random_k(0.3, 5),
    c.random_k(0.3, 5, unbiased=True),
    c.threshold(0.8),
    c.sign(),
    c.sign(4),
    c.low_rank(1),
    c.low_rank(2, iterations=3),
]


@pytest.mark.parametrize("compressor", SOME, ids=repr)
@given(seeds, shapes)
def test_kept_and_dropped_add_up(
    compressor: c.Compressor, seed: int, shape: tuple[int, ...]
) -> None:
    x = draw(seed, shape)
    payload = kept_of(compressor, x)
    kept, rest = compressor.decompress(payload), compressor.residual(x, payload)
    assert kept.shape == rest.shape == x.shape
    assert tuple(payload.shape) == tuple(x.shape)
    torch.testing.assert_close(kept + rest, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compressor", [c.top_k(0.3), c.block_top_k(0.3, 5)], ids=repr)
@given(seeds)
def test_top_k_contracts(compressor: c.Compressor, seed: int) -> None:
    x = torch.randn(40, generator=torch.Generator().manual_seed(seed))
    rest = compressor.residual(x, kept_of(compressor, x))
    assert rest.square().sum() <= (1 - 0.3) * x.square().sum() * (1 + 1e-6)


@given(seeds)
def test_sign_contracts(seed: int) -> None:
    x = torch.randn(40, generator=torch.Generator().manual_seed(seed)).double()
    rest = c.sign().residual(x, kept_of(c.sign(), x))
    want = x.square().sum() - x.abs().sum().square() / 40
    torch.testing.assert_close(rest.square().sum(), want)


def test_sign_has_one_magnitude_a_block() -> None:
    x = torch.tensor([1.0, -3.0, 0.0, 6.0, -5.0])
    assert kept_of(c.sign(2), x).tolist() == [2.0, -2.0, 0.0, 3.0, -5.0]


def repeated(compressor: c.Compressor, x: Tensor, times: int) -> Tensor:
    state, out = compressor.init(x, "w"), []
    for _ in range(times):
        payload, state = compressor.compress(x, state)
        out.append(compressor.decompress(payload))
    return torch.stack(out)


def test_random_k_chooses_all_alike() -> None:
    chosen = repeated(c.random_k(0.25, 4), torch.ones(10), 4000)
    assert (chosen.sum(1) == 1 + 1 + 1).all()
    share = chosen.mean(0)
    torch.testing.assert_close(share[:8], torch.full((8,), 0.25), rtol=0, atol=0.03)
    torch.testing.assert_close(share[8:], torch.full((2,), 0.5), rtol=0, atol=0.03)


def test_unbiased_random_k() -> None:
    x = torch.arange(10.0)
    mean = repeated(c.random_k(0.25, 4, unbiased=True), x, 4000).mean(0)
    torch.testing.assert_close(mean, x, rtol=0.1, atol=0.1)


def test_random_numbers_depend_on_seed_and_leaf() -> None:
    x = torch.arange(1000.0)

    def first(seed: int, name: str) -> Tensor:
        compressor = c.random_k(0.1, seed=seed)
        return compressor.compress(x, compressor.init(x, name))[0].indices

    assert torch.equal(first(0, "a"), first(0, "a"))
    assert not torch.equal(first(0, "a"), first(0, "b"))
    assert not torch.equal(first(0, "a"), first(1, "a"))


def test_low_rank_warms_up() -> None:
    """Power iteration on one matrix, one step an update, ends at the best approximation."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(20, 6, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(12, 6, generator=generator)).Q
    sizes = torch.tensor([8.0, 5.0, 1.0, 0.5, 0.3, 0.1])
    x = left * sizes @ right.T
    outs = repeated(c.low_rank(2), x, 12)
    errors = (outs - x).square().sum((1, 2)).sqrt()
    best = sizes[2:].square().sum().sqrt()
    assert errors[0] > 1.001 * best
    torch.testing.assert_close(errors[-1], best, rtol=1e-4, atol=0)


def test_low_rank_of_other_leaves() -> None:
    compressor = c.low_rank(2)
    for shape in ((7,), (), (2, 3), (0, 40)):
        x = torch.ones(shape)
        assert compressor.init(x).basis == ()
        assert kept_of(compressor, x) is x
    x = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    payload = kept_of(compressor, x)
    assert payload.factor.shape == (2, 27)
    assert payload.to_dense().shape == x.shape


def test_low_rank_recovers_from_zero() -> None:
    compressor, x = c.low_rank(1), torch.ones(4, 5)
    state = compressor.compress(torch.zeros_like(x), compressor.init(x))[1]
    for _ in range(2):
        payload, state = compressor.compress(x, state)
    torch.testing.assert_close(payload.to_dense(), x)


def test_a_state_of_another_leaf_is_an_error() -> None:
    compressor = c.low_rank(1)
    state = compressor.init(torch.zeros(4, 5))
    with pytest.raises(gx.TreeMismatchError, match=r"low_rank: .*\(4, 1\).*\(5, 1\)"):
        compressor.compress(torch.zeros(5, 4), state)


@pytest.mark.parametrize("compressor", SOME, ids=repr)
def test_vmap(compressor: c.Compressor) -> None:
    batch = torch.stack([draw(seed, (6, 4)) for seed in range(3)])
    state = compressor.init(batch[0])

    def kept(x: Tensor) -> Tensor:
        return compressor.decompress(compressor.compress(x, state)[0])

    want = torch.stack([kept(x) for x in batch])
    torch.testing.assert_close(torch.func.vmap(kept)(batch), want)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: c.top_k(), "top_k: give either density or k"),
        (lambda: c.top_k(0.1, 3), "top_k: give either density or k"),
        (lambda: c.top_k(0.0), r"top_k: density must be in \(0, 1\], got 0.0"),
        (lambda: c.top_k(k=0), "top_k: k must be an integer >= 1 or None, got 0"),
        (lambda: c.block_top_k(1.5), r"block_top_k: density must be in \(0, 1\], got 1.5"),
        (lambda: c.block_top_k(0.1, 0), r"block_top_k: block_size .* \[1, 32767\], got 0"),
        (lambda: c.block_top_k(0.1, 32768), r"block_top_k: block_size .* got 32768"),
        (lambda: c.random_k(math.nan), "random_k: density"),
        (lambda: c.random_k(0.1, seed=2**70), "random_k: seed"),
        (lambda: c.threshold(0.0), r"threshold: bound must be in \(0, inf\), got 0.0"),
        (lambda: c.sign(0), "sign: block_size must be an integer >= 1 or None, got 0"),
        (lambda: c.low_rank(0), "low_rank: rank must be an integer >= 1, got 0"),
        (lambda: c.low_rank(1, 0), "low_rank: iterations"),
    ],
)
def test_bad_arguments(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_compress_takes_compressors_only() -> None:
    with pytest.raises(TypeError, match=r"compress: compressor must be one of gx.compressors"):
        gx.compress(0.1)
