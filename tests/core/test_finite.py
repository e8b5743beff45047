"""Leaves whose update is not finite are refused or skipped."""

from __future__ import annotations

import math

import pytest
import torch

import gradtx as gx

BAD = (math.nan, math.inf, -math.inf)


def grads(bad: float = 1.0) -> dict:
    return {"a": torch.ones(3), "b": torch.tensor([1.0, bad]), "c": None}


def params() -> dict:
    return {"a": torch.zeros(3), "b": torch.zeros(2), "c": torch.zeros(1)}


@pytest.mark.parametrize("bad", BAD)
def test_raise(bad: float) -> None:
    tx = gx.apply_if_leaf_finite(gx.trace(0.9))
    state = tx.init(params())
    out, state = tx.update(grads(), state, params())
    assert torch.equal(out["b"], torch.ones(2))
    with pytest.raises(ValueError, match=r"apply_if_leaf_finite: leaf 'b': .*NaN or an infinity"):
        tx.update(grads(bad), state, params())


@pytest.mark.parametrize("bad", BAD)
def test_skip(bad: float) -> None:
    tx = gx.apply_if_leaf_finite(gx.scale_by_adam(), "skip")
    _, state = tx.update(grads(), tx.init(params()), params())
    out, new = tx.update(grads(bad), state, params())
    plain, want = gx.scale_by_adam().update(grads(), state, params())
    assert torch.equal(out["a"], plain["a"])
    assert torch.equal(out["b"], torch.zeros(2))
    assert out["c"] is None
    for leaf, kept in (("a", want), ("b", state)):
        assert all(map(torch.equal, gx.tree.leaves(new[leaf]), gx.tree.leaves(kept[leaf])))


def test_what_leaves_share_goes_on() -> None:
    tx = gx.apply_if_leaf_finite(gx.trace(gx.schedules.linear(0.5, 0.9, 4)), "skip")
    state = tx.init(params())
    _, new = tx.update(grads(math.nan), state, params())
    assert new.step == 1
    assert torch.equal(new.state["b"].trace, torch.zeros(2))


@pytest.mark.parametrize("how", ["vmap", "compile"])
def test_raise_becomes_skip_where_values_cannot_be_read(how: str) -> None:
    tx = gx.apply_if_leaf_finite(gx.trace(0.9))
    p = torch.zeros(2)

    def step(g: torch.Tensor) -> torch.Tensor:
        return tx.update(g, tx.init(p), p)[0]

    good, bad = torch.ones(2), torch.tensor([1.0, math.nan])
    if how == "vmap":
        out = torch.func.vmap(step)(torch.stack([good, bad]))
    else:
        torch._dynamo.reset()
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        out = torch.stack([compiled(good), compiled(bad)])
    assert out.tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_sparse_updates_of_the_inner_transform() -> None:
    tx = gx.apply_if_leaf_finite(gx.compress(gx.compressors.top_k(k=1)), "skip")
    p = torch.zeros(3)
    out, _ = tx.update(torch.tensor([1.0, 3.0, math.inf]), tx.init(p), p)
    assert out.to_dense().tolist() == [0.0, 0.0, 0.0]


def test_gradients_that_need_derivatives_can_be_read() -> None:
    tx = gx.apply_if_leaf_finite(gx.scale(2.0))

    def total(g: torch.Tensor) -> torch.Tensor:
        return tx.update(g, (), g)[0].sum()

    assert torch.func.grad(total)(torch.ones(2)).tolist() == [2.0, 2.0]
    with pytest.raises(ValueError, match="has a NaN"):
        torch.func.grad(total)(torch.tensor([math.nan]))


def test_bad_argument() -> None:
    with pytest.raises(ValueError, match="otherwise must be 'raise' or 'skip', got 'stop'"):
        gx.apply_if_leaf_finite(gx.scale(1.0), "stop")
