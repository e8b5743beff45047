from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given

import gradtx as gx

from .strategies import close, run, some_transform, trees


@given(trees())
def test_elementwise_transforms_do_not_notice(params: Any) -> None:
    close(run(gx.flatten(some_transform()), params)[0], run(some_transform(), params)[0])


@given(trees())
def test_state_is_one_vector(params: Any) -> None:
    _, state = run(gx.flatten(gx.trace(0.9)), params)
    size = sum(x.numel() for x in gx.tree.leaves(params))
    assert state["flat"].trace.shape == (size,)


def test_missing_leaf() -> None:
    tx = gx.flatten(gx.trace(0.9))
    params = {"a": torch.ones(1), "b": torch.ones(1)}
    with pytest.raises(gx.TreeMismatchError, match="flatten: leaf 'b' has no update"):
        tx.update({"a": torch.ones(1), "b": None}, tx.init(params), params)


@pytest.mark.parametrize("live", ["all", "nonzero"])
def test_of_chosen_leaves(live: Any) -> None:
    inner = gx.flatten(gx.scale_by_sophia(0.9, 0.9), live)
    rest = gx.trace(0.9)
    one = lambda info: "flat" if info.ndim == 1 else "rest"  # noqa: E731
    params = {"a": torch.ones(2), "b": torch.ones(1, 2), "c": torch.ones(3)}
    grads = {"a": torch.tensor([1.0, -2.0]), "b": torch.ones(1, 2), "c": torch.full((3,), 0.5)}
    some = {k: params[k] for k in "ac"}, {k: grads[k] for k in "ac"}
    want, _ = inner.update(some[1], inner.init(some[0]), some[0], hessian=some[0])
    for tx in (
        gx.partition({"flat": inner, "rest": rest}, by=one),
        gx.partition({"flat": inner, "rest": rest}, by={"a": "flat", "b": "rest", "c": "flat"}),
        gx.masked(inner, lambda info: info.ndim == 1),
        gx.masked(inner, {"a": True, "b": False, "c": True}),
        gx.masked(gx.masked(inner, lambda info: info.ndim == 1), {"a": True, "b": True, "c": True}),
    ):
        got, _ = tx.update(grads, tx.init(params), params, hessian=params)
        assert all(torch.equal(got[k], want[k]) for k in want)
        assert torch.equal(got["b"], grads["b"])
        with pytest.raises(gx.TreeMismatchError, match="flatten: leaf 'c' has no update"):
            tx.update({**grads, "c": None}, tx.init(params), params, hessian=params)


def test_gradients_are_flattened_too() -> None:
    tx = gx.chain(gx.scale(-1.0), gx.flatten(gx.cautious_mask(rescale=None)))
    grads = {"a": torch.ones(2), "b": torch.ones(1, 1)}
    out, _ = tx.update(grads, tx.init(grads))
    assert all((x == 0).all() for x in gx.tree.leaves(out))


def test_every_leaf_keeps_its_dtype() -> None:
    tx = gx.flatten(gx.scale(1.0))
    grads = {"a": torch.ones(2), "b": torch.ones(1, dtype=torch.float64)}
    out, _ = tx.update(grads, tx.init(grads))
    assert (out["a"].dtype, out["b"].dtype) == (torch.float32, torch.float64)
