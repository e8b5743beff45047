"""One second moment per subset: which entries share, and what that must equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.transforms.subset_norm import subsets_of
from tests.battery.helpers import assert_close, grads_, run

SHAPES: list[tuple[tuple[int, ...], Any, tuple[int, ...]]] = [
    ((6, 4), "heuristics", (6, 1)),
    ((4, 6), "heuristics", (1, 6)),
    ((4, 4), "heuristics", (4, 1)),
    ((4, 3, 3, 3), "heuristics", (4, 1, 3, 3)),
    ((3, 4, 2), "heuristics", (1, 4, 2)),
    ((5,), "heuristics", (5,)),
    ((), "heuristics", ()),
    ((4, 3, 3, 3), "matrix", (1, 27)),
    ((9, 2, 2), "matrix", (9, 1)),
    ((4, 6), "leaf", (1, 1)),
    ((), "leaf", ()),
    ((4, 6), None, (4, 6)),
    ((4, 6), -2, (12, 1)),
    ((4, 6), -1, (6, 1)),
    ((4, 6), 10, (3, 1)),
    ((4, 6), 99, (1, 1)),
    ((3,), -9, (3, 1)),
    ((0, 6), 3, (0, 6)),
]


@pytest.mark.parametrize(("shape", "subset", "kept"), SHAPES)
def test_what_is_kept(shape: Any, subset: Any, kept: Any) -> None:
    p = torch.ones(shape)
    state = gx.root_subset_norm(subset).init({"w": p})["w"]
    assert state.nu.shape == kept
    grid = subsets_of(shape, subset)
    assert grid.sum_of(p).sum() == p.numel()
    assert grid.spread(grid.sum_of(p)).shape == shape


def test_ragged_runs() -> None:
    grid = subsets_of((7,), 3, ragged=True)
    x = torch.arange(7.0)
    assert grid.sum_of(x).flatten().tolist() == [3.0, 12.0, 6.0]
    assert grid.spread(grid.sum_of(x)).tolist() == [3.0] * 3 + [12.0] * 3 + [6.0]


def test_primes_are_told() -> None:
    with pytest.warns(UserWarning, match="leaf 'w' has 101 elements"):
        gx.root_subset_norm(10).init({"w": torch.zeros(101)})


@pytest.mark.parametrize("subset", [1, None])
def test_subsets_of_one_are_adam(subset: Any) -> None:
    adam = gx.chain(gx.scale_by_adam(0.9, 0.99, eps=1e-12), gx.scale_by_learning_rate(0.1))
    got, _ = run(gx.adamw_sn(0.1, 0.9, 0.99, eps=1e-12, subset=subset))
    assert_close(got, run(adam)[0], rtol=1e-5)


def test_the_sum_is_adagrad() -> None:
    got, _ = run(gx.adagrad_sn(1.0, b1=0.0, eps=0.0, subset=None))
    total: Any = None
    for t, out in enumerate(got):
        square = gx.tree.map(torch.square, grads_(t))
        total = square if total is None else gx.tree.map(torch.add, total, square)
        assert_close(out, gx.tree.map(lambda g, v: -g / v.sqrt(), grads_(t), total), rtol=1e-5)


def test_correction_does_not_stop_a_sum() -> None:
    """1 - b2^t is zero for b2 = 1; the published implementation never moves then."""
    got, _ = run(gx.snsm(1.0, b2=1.0, second_moment="sn", subset=-1))
    assert all(x.abs().max() > 0.1 for x in gx.tree.leaves(got[0]))
    stuck, _ = run(gx.snsm(1.0, b2=1.0, second_moment="sn", subset=-1, parity=True))
    assert all(x.abs().max() == 0 for x in gx.tree.leaves(stuck))


def test_decay_comes_after_the_step() -> None:
    tx = gx.chain(gx.scale_by_learning_rate(0.5), gx.decay_after(0.5, 0.2))
    params = {"w": torch.tensor([2.0])}
    out, _ = tx.update({"w": torch.tensor([1.0])}, tx.init(params), params)
    assert (params["w"] + out["w"]).item() == pytest.approx((2.0 - 0.5) * 0.9)


@pytest.mark.parametrize("bad", [0, True, "rows", 1.5])
def test_unknown_subsets(bad: Any) -> None:
    with pytest.raises(ValueError, match="root_subset_norm: subset must be"):
        gx.root_subset_norm(bad)


def test_zero_subsets_have_no_direction() -> None:
    tx = gx.scale_by_subset_norm(eps=0.0)
    out, _ = tx.update({"w": torch.zeros(2, 2)}, tx.init({"w": torch.zeros(2, 2)}))
    assert out["w"].tolist() == [[0.0, 0.0], [0.0, 0.0]]
