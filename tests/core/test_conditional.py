from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradtx as gx

from .strategies import like, run, same, seeds, some_transform, tensors, trees

SOLID = trees(tensors(shape=(2,)))
BAD = st.sampled_from([float("inf"), float("-inf"), float("nan")])


def spoil(grads: Any, which: int, value: float) -> Any:
    """The same gradients with one entry of one leaf replaced."""
    leaves, spec = gx.tree.flatten(grads)
    if leaves:
        i = which % len(leaves)
        leaves[i] = torch.cat([torch.full((1,), value), leaves[i][1:]])
    return spec.unflatten(leaves)


@given(SOLID, st.lists(st.booleans(), max_size=6), BAD, seeds)
def test_apply_if_finite_skips(params: Any, plan: list[bool], bad: float, seed: int) -> None:
    """Finite steps are those of the inner transform alone; the others change nothing."""
    inner = some_transform()
    tx = gx.apply_if_finite(inner, max_consecutive_errors=10)
    state, inner_state = tx.init(params), inner.init(params)
    any_leaf = bool(gx.tree.leaves(params))
    total = 0
    for step, broken in enumerate(plan):
        grads = like(params, seed + step)
        if broken and any_leaf:
            out, state = tx.update(spoil(grads, seed, bad), state, params)
            assert same(out, gx.tree.zeros_like(grads))
            total += 1
            assert not state.last_finite
        else:
            want, inner_state = inner.update(grads, inner_state, params)
            out, state = tx.update(grads, state, params)
            assert same(out, want)
            assert state.last_finite
            assert state.notfinite_count == 0
        assert same(state.inner_state, inner_state)
        assert state.total_notfinite == total


def test_apply_if_finite_gives_up() -> None:
    tx = gx.apply_if_finite(gx.identity(), max_consecutive_errors=2)
    params = {"w": torch.zeros(1)}
    state, bad = tx.init(params), {"w": torch.tensor([torch.nan])}
    outs = []
    for _ in range(3):
        out, state = tx.update(bad, state, params)
        outs.append(out["w"].isnan().item())
    assert outs == [False, False, True]
    assert (state.notfinite_count.item(), state.total_notfinite.item()) == (3, 3)
    _, state = tx.update(params, state, params)
    assert (state.notfinite_count.item(), state.total_notfinite.item()) == (0, 3)


@given(SOLID, st.floats(0.25, 4, width=16), seeds)
def test_skip_large_updates(params: Any, limit: float, seed: int) -> None:
    inner = some_transform()
    tx = gx.skip_large_updates(inner, max_norm=limit)
    state = inner_state = tx.init(params)
    for step in range(4):
        grads = like(params, seed + step)
        out, state = tx.update(grads, state, params)
        if gx.tree.global_norm(grads).square() <= limit**2:
            want, inner_state = inner.update(grads, inner_state, params)
            assert same(out, want)
        else:
            assert same(out, gx.tree.zeros_like(grads))
        assert same(state, inner_state)


@given(SOLID, BAD)
def test_skip_large_updates_skips_what_is_not_finite(params: Any, bad: float) -> None:
    tx = gx.skip_large_updates(some_transform(), max_norm=1e30)
    _, state = run(tx, params, steps=1)
    grads = spoil(like(params, 1), 0, bad)
    out, new = tx.update(grads, state, params)
    if gx.tree.leaves(params):
        assert same(out, gx.tree.zeros_like(grads))
        assert same(new, state)


@given(trees(), st.integers(0, 4), seeds)
def test_conditionally_transform(params: Any, start: int, seed: int) -> None:
    inner = some_transform()
    tx = gx.conditionally_transform(inner, lambda count: count >= start)
    state, inner_state = tx.init(params), inner.init(params)
    for step in range(4):
        grads = like(params, seed + step)
        out, state = tx.update(grads, state, params)
        want = grads
        if step >= start:
            want, inner_state = inner.update(grads, inner_state, params)
        assert same(out, want)
        assert same(state.inner_state, inner_state)
        assert state.step == step + 1


@given(trees())
def test_condition_may_be_a_plain_bool(params: Any) -> None:
    tx = some_transform()
    always = gx.conditionally_transform(tx, lambda count: True)
    assert same(run(always, params)[0], run(tx, params)[0])


def test_bad_arguments() -> None:
    with pytest.raises(
        ValueError, match="apply_if_finite: max_consecutive_errors must be an integer >= 0"
    ):
        gx.apply_if_finite(gx.identity(), max_consecutive_errors=-1)
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(
            ValueError, match=r"skip_large_updates: max_norm must be in \(0, inf\], got"
        ):
            gx.skip_large_updates(gx.identity(), max_norm=bad)


@pytest.mark.parametrize("kind", [gx.conditionally_transform, gx.conditionally_mask])
def test_conditions_may_depend_on_what_the_caller_passes(kind: Any) -> None:
    tx = kind(gx.scale(2.0), lambda count, value: value < 1.0, forward_extra_args=True)
    chained, u = gx.chain(tx, gx.scale(1.0)), {"w": torch.ones(1)}
    state = chained.init(u)
    left = 1.0 if kind is gx.conditionally_transform else 0.0
    for value, want in ((0.5, 2.0), (1.5, left)):
        out, state = chained.update(u, state, value=torch.tensor(value))
        assert out["w"].item() == want
