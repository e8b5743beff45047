from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradtx as gx

from .strategies import close, run, same, some_transform, tensors, trees

FACTORS = st.floats(-4, 4, width=16)


@given(trees(), FACTORS, FACTORS)
def test_sum_of_scales(params: Any, a: float, b: float) -> None:
    both = gx.parallel(gx.scale(a), gx.scale(b))
    close(run(both, params)[0], run(gx.scale(a + b), params)[0], rtol=1e-4, atol=1e-5)


@given(trees())
def test_one_branch_is_the_branch(params: Any) -> None:
    tx = some_transform()
    assert same(run(gx.parallel(tx), params)[0], run(tx, params)[0])


@given(trees())
def test_branches_do_not_see_each_other(params: Any) -> None:
    a, b = gx.trace(0.9), some_transform()
    first = gx.parallel(a, b, merge=lambda x, y: x)
    second = gx.parallel(a, b, merge=lambda x, y: y)
    assert same(run(first, params)[0], run(a, params)[0])
    assert same(run(second, params)[0], run(b, params)[0])


@given(tensors(shape=(4,)), tensors(shape=(4,)))
def test_graft(magnitude: torch.Tensor, direction: torch.Tensor) -> None:
    out = gx.graft(magnitude, direction)
    torch.testing.assert_close(out.norm(), magnitude.norm())
    torch.testing.assert_close(out / out.norm(), direction / direction.norm(), rtol=1e-4, atol=1e-5)


def test_graft_without_direction_is_zero() -> None:
    assert gx.graft(torch.ones(3), torch.zeros(3)).tolist() == [0.0] * 3


def test_names_and_overrides() -> None:
    tx = gx.parallel(gx.scale(1.0), gx.scale(1.0), gx.chain(gx.trace(0.9)), gx.trace(0.9))
    grads = {"w": torch.ones(1)}
    state = tx.init(grads)
    names = list(state)
    assert len(set(names)) == 4
    out, _ = tx.update(grads, state, hyper={f"{names[0]}.step_size": 10.0})
    assert out["w"].item() == 13.0


def test_merge_gets_one_update_per_branch() -> None:
    tx = gx.parallel(gx.scale(1.0), gx.scale(2.0), gx.scale(4.0), merge=lambda a, b, c: c - a)
    grads = {"w": torch.ones(1)}
    assert tx.update(grads, tx.init(grads))[0]["w"].item() == 3.0


def test_wrong_state() -> None:
    with pytest.raises(gx.TreeMismatchError, match="parallel: the state has members"):
        gx.parallel(gx.scale(1.0), gx.trace(0.9)).update({"w": torch.ones(1)}, ())
