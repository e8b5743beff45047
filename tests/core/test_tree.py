from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given

import gradtx as gx

from .strategies import like, run, same, seeds, some_transform, trees


@given(trees())
def test_flatten_and_back(tree: Any) -> None:
    leaves, spec = gx.tree.flatten(tree)
    assert same(spec.unflatten(leaves), tree)
    assert len(gx.tree.names(spec)) == len(leaves) == len(set(gx.tree.names(spec)))


@given(trees())
def test_map_laws(tree: Any) -> None:
    assert same(gx.tree.map(lambda x: x, tree), tree)
    twice = gx.tree.map(lambda x: (x + 1) * 2, tree)
    assert same(gx.tree.map(lambda x: x * 2, gx.tree.map(lambda x: x + 1, tree)), twice)


def test_map_keeps_none_and_passes_subtrees() -> None:
    out = gx.tree.map(lambda x, sub: x + sub["y"], {"a": 1, "b": None}, {"a": {"y": 5}, "b": 3})
    assert out == {"a": 6, "b": None}
    with pytest.raises(gx.TreeMismatchError, match=r"tree\.map: .*'c'"):
        gx.tree.map(lambda x, y: x, {"a": 1}, {"c": 1})


def test_map_with_name() -> None:
    tree = {"a": [1, {"b": 2}], "c": None}
    assert gx.tree.map_with_name(lambda n, x: n, tree) == {"a": ["a.0", {"b": "a.1.b"}], "c": None}


@given(trees(), seeds)
def test_vdot_and_norm(tree: Any, seed: int) -> None:
    other = like(tree, seed)
    flat = torch.cat([x.reshape(-1) for x in gx.tree.leaves(tree)] or [torch.zeros(0)])
    other_flat = torch.cat([x.reshape(-1) for x in gx.tree.leaves(other)] or [torch.zeros(0)])
    torch.testing.assert_close(gx.tree.vdot(tree, other), flat @ other_flat, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gx.tree.global_norm(tree), flat.norm(), rtol=1e-4, atol=1e-5)


def test_half_precision_sums_in_float32() -> None:
    tree = {"a": torch.full((300, 300), 0.1, dtype=torch.bfloat16)}
    assert gx.tree.global_norm(tree).dtype == torch.float32
    assert gx.tree.vdot(tree, tree).dtype == torch.float32
    want = tree["a"].double().norm().item()
    assert gx.tree.global_norm(tree).item() == pytest.approx(want, rel=1e-4)


@given(trees(), seeds)
def test_where(tree: Any, seed: int) -> None:
    other = like(tree, seed)
    assert same(gx.tree.where(torch.tensor(True), tree, other), tree)
    assert same(gx.tree.where(torch.tensor(False), tree, other), other)


@given(trees())
def test_cast(tree: Any) -> None:
    double = gx.tree.cast(tree, torch.float64)
    assert all(x.dtype == torch.float64 for x in gx.tree.leaves(double))
    assert same(gx.tree.cast(double, torch.float32), tree)
    assert gx.tree.cast(tree, None) is tree


def test_get_and_set() -> None:
    params = {"w": torch.ones(2), "b": torch.ones(1)}
    _, state = run(gx.chain(gx.scale_by_adam(), gx.trace(0.9)), params)
    assert list(gx.tree.get_all(state, "mu")) == ["scale_by_adam.b", "scale_by_adam.w"] or set(
        gx.tree.get_all(state, "mu")
    ) == {"scale_by_adam.b", "scale_by_adam.w"}
    with pytest.raises(KeyError, match="2 places are called 'mu'"):
        gx.tree.get(state, "mu")
    with pytest.raises(KeyError, match="nothing is called 'nope'"):
        gx.tree.get(state, "nope")
    with pytest.raises(KeyError, match="nothing is called 'nope'"):
        gx.tree.set(state, nope=1)
    new = gx.tree.set(state, step=torch.tensor(7, dtype=torch.int32))
    assert {int(x) for x in gx.tree.get_all(new, "step").values()} == {7}
    assert same(gx.tree.get_all(new, "mu"), gx.tree.get_all(state, "mu"))
    assert {int(x) for x in gx.tree.get_all(state, "step").values()} == {3}
    assert gx.tree.flatten(new)[1] == gx.tree.flatten(state)[1]


def test_get_finds_members() -> None:
    state = gx.chain(gx.scale_by_adam(), gx.trace(0.9)).init({"w": torch.ones(2)})
    assert gx.tree.get(state, "trace")["w"].trace.shape == (2,)


@given(trees())
def test_map_params_reaches_parameter_shaped_state(params: Any) -> None:
    _, state = run(some_transform(), params)
    double = gx.tree.map_params(lambda s, p: s.double(), state, params)
    steps = gx.tree.get_all(double, "step")
    for owner, mu in gx.tree.get_all(double, "mu").items():
        assert mu.dtype == torch.float64
        if mu.shape != ():  # the counter of a 0-d leaf is shaped like the leaf
            assert steps[owner].dtype == torch.int32
    assert gx.tree.flatten(double)[1] == gx.tree.flatten(state)[1]


def test_map_params_leaves_counters_of_scalar_parameters() -> None:
    """The counter of a 0-d parameter has its shape, but is no buffer of the parameter."""
    params = {"s": torch.zeros(())}
    state = gx.scale_by_adam().init(params)
    new = gx.tree.map_params(lambda s, p: s.to(torch.bfloat16), state, params)
    assert new["s"].step.dtype == torch.int32
    assert new["s"].mu.dtype == torch.bfloat16


def test_map_params_inside_wrappers() -> None:
    params = {"w": torch.ones(2)}
    tx = gx.multi_steps(gx.chain(gx.scale_by_adam(), gx.trace(0.9)), every_k=2)
    seen = []
    gx.tree.map_params(lambda s, p: seen.append(s) or s, tx.init(params), params)
    assert len(seen) == 4  # the accumulator, mu, nu and the trace
