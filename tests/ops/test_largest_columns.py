"""Which columns or rows are the largest: ties, NaN, layouts and threads."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.ops import OPS
from gradtx.ops.largest_columns import choose_columns, largest_columns

from .test_dct_passes import LAYOUTS, laid


def by_hand(x: Tensor, k: int, dim: int, squares: bool, weights: Tensor | None) -> list[int]:
    lines = x.double().unbind(dim)
    scores = [float(line.norm(2 if squares else 1)) for line in lines]
    if weights is not None:
        scores = [s * float(w) for s, w in zip(scores, weights, strict=True)]
    keys = [(0, 0.0, i) if math.isnan(s) else (1, -s, i) for i, s in enumerate(scores)]
    return sorted(i for *_, i in sorted(keys)[:k])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("squares", [False, True])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("shape", [(1, 1), (7, 40), (200, 33), (16, 16)])
def test_the_largest(shape, dim, squares, layout):
    for seed in range(3):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        for k in sorted({0, 1, shape[dim] // 2, shape[dim]}):
            for weights in (None, torch.rand(shape[dim])):
                want = by_hand(x, k, dim, squares, weights)
                for run in (largest_columns, choose_columns):
                    got = run(laid(x, layout), k, dim, squares, weights)
                    assert got.dtype == torch.int64
                    assert got.tolist() == want


def test_of_equal_ones_the_first_and_nan_before_all():
    x = torch.tensor([[1.0, 3.0, -1.0, 3.0, 2.0]])
    assert largest_columns(x, 2, 1, False, None).tolist() == [1, 3]
    assert largest_columns(x, 1, 1, False, None).tolist() == [1]
    x = torch.tensor([[1.0, math.nan, 1.0, math.inf]])
    for k, want in ((1, [1]), (2, [1, 3]), (3, [0, 1, 3])):
        assert largest_columns(x, k, 1, True, None).tolist() == want
        assert choose_columns(x, k, 1, True, None).tolist() == want
    assert largest_columns(torch.zeros(3, 4), 2, 1, False, None).tolist() == [0, 1]


@pytest.mark.parametrize("dim", [0, 1])
def test_threads_change_nothing(dim):
    x, before = torch.ones(3000, 40), torch.get_num_threads()
    x[:, 1] += 1e-7
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(largest_columns(x * 0.1, 7, dim, False, None))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], r) for r in results)


@pytest.mark.parametrize(
    ("x", "k", "dim", "weights", "words"),
    [
        (torch.ones(2, 3, dtype=torch.float64), 1, 1, None, "float32 matrix"),
        (torch.ones(3), 1, 0, None, "float32 matrix"),
        (torch.ones(2, 3), 1, 2, None, "dim must be 0 or 1"),
        (torch.ones(2, 3), 4, 1, None, r"k must be in \[0, 3\], got 4"),
        (torch.ones(2, 3), 1, 1, torch.ones(2), "weights"),
    ],
)
def test_bad_arguments(x, k, dim, weights, words):
    for run in (largest_columns, OPS["largest_columns"].reference):
        with pytest.raises((RuntimeError, ValueError), match=words):
            run(x, k, dim, False, weights)


def test_compressor_chooses_the_same_under_transforms():
    c, x = gx.compressors.top_columns(2), torch.randn(5, 6)
    plain = c.compress(x, ())[0].basis
    mapped = torch.func.vmap(lambda y: c.compress(y, ())[0].basis)(x[None])[0]
    assert torch.equal(plain, mapped)
