"""The largest of some numbers: ties, NaN, and the k-th of many without sorting."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx
from gradtx.ops.selection import kth_largest


def test_top_indices_take_the_lower_of_equals():
    scores = torch.tensor([[2.0, 5.0, 2.0, 2.0, 7.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert gx.ops.top_indices(scores, 3).tolist() == [[0, 1, 4], [0, 1, 2]]
    assert gx.ops.top_indices(torch.tensor([1.0, torch.nan, 3.0]), 1).tolist() == [1]
    assert gx.ops.top_indices(scores, 0).shape == (2, 0)
    with pytest.raises(ValueError, match=r"k must be in \[0, 5\], got 6"):
        gx.ops.top_indices(scores, 6)


def test_a_mask_of_the_largest_is_that_of_their_indices():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (6, 9), generator=generator).float()
    scores[2, 3] = scores[2, 7] = torch.nan
    for k in range(10):
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        want = torch.zeros(6, 9, dtype=torch.bool).scatter(1, order, True)
        assert torch.equal(gx.ops.top_mask(scores, k), want)
        assert torch.equal(gx.ops.top_indices(scores, k), order.sort(dim=1).values)
    batched = torch.func.vmap(lambda x: gx.ops.top_mask(x, 4))(scores)
    assert torch.equal(batched, gx.ops.top_mask(scores, 4))
    with pytest.raises(ValueError, match=r"top_mask: k must be in \[0, 9\], got 10"):
        gx.ops.top_mask(scores, 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["distinct", "ties", "nan", "infinite"])
def test_long_scores_are_chosen_as_short_ones(kind, dtype):
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(20_000, generator=generator, dtype=dtype)
    if kind == "ties":
        scores = scores.round()
    elif kind != "distinct":
        scores[::7] = torch.nan if kind == "nan" else -torch.inf
    before = scores.clone()
    for k in (1, 2857, 2858, 9000, 19_999):
        order = scores.argsort(descending=True, stable=True)[:k]
        want = torch.zeros(20_000, dtype=torch.bool).index_fill(0, order, True)
        assert torch.equal(gx.ops.top_mask(scores, k), want)
        again = torch.func.vmap(lambda x, k=k: gx.ops.top_mask(x, k))(scores[None])[0]
        assert torch.equal(again, want)
    torch.testing.assert_close(scores, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1.0, 1e30])
def test_the_kth_of_pieces_is_that_of_all(spread):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5000, generator=generator).abs() * spread
    x[::7] = x[3]  # ties
    x[::11] = 0
    x[17] = torch.finfo(torch.float32).max
    pieces = x.split(700)
    order = x.sort(descending=True).values
    for k in (1, 2, 37, 400, 2500, 4999, 5000):
        found = kth_largest(lambda: iter(pieces), k)
        assert found.value == order[k - 1].item()
        assert found.above == int((x > found.value).sum())
