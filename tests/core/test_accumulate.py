from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradtx as gx

from .strategies import close, like, run, same, seeds, some_transform, trees

PERIODS = st.integers(1, 4)


@given(trees(), PERIODS, seeds)
def test_multi_steps_of_equal_gradients(params: Any, k: int, seed: int) -> None:
    """Every k-th call is a step of the inner transform; the others give zeros."""
    inner = some_transform()
    tx = gx.multi_steps(inner, every_k=k)
    state, inner_state = tx.init(params), inner.init(params)
    for big in range(2):
        grads = like(params, seed + big)
        want, inner_state = inner.update(grads, inner_state, params)
        for small in range(k):
            out, state = tx.update(grads, state, params)
            close(out, want if small == k - 1 else gx.tree.zeros_like(want), rtol=1e-4)
    close(state.inner_state, inner_state, rtol=1e-4)
    assert (state.gradient_step.item(), state.mini_step.item()) == (2, 0)


@given(trees())
def test_multi_steps_of_one_is_the_inner_transform(params: Any) -> None:
    tx = some_transform()
    outs, state = run(gx.multi_steps(tx, every_k=1), params)
    want, want_state = run(tx, params)
    assert same(outs, want)
    assert same(state.inner_state, want_state)


@given(trees(), seeds)
def test_multi_steps_averages(params: Any, seed: int) -> None:
    tx = gx.multi_steps(gx.identity(), every_k=3)
    state, grads = tx.init(params), [like(params, seed + i) for i in range(3)]
    for g in grads:
        out, state = tx.update(g, state, params)
    close(out, gx.tree.map(lambda a, b, c: (a + b + c) / 3, *grads), rtol=1e-4, atol=1e-5)


def test_multi_steps_adds_up_values_like_gradients() -> None:
    tx = gx.multi_steps(gx.reduce_on_plateau(0.5, patience=1), 2, use_grad_mean=False)
    grads = {"w": torch.ones(1)}
    state = tx.init(grads)
    for value in (1.0, 2.0):
        _, state = tx.update(grads, state, value=value)
    assert state.inner_state.shared.best == 3.0


def test_skipped_calls_leave_no_trace_but_their_note() -> None:
    skips = functools.partial(gx.skip_large, max_squared_norm=100.0)
    tx = gx.multi_steps(gx.trace(0.9), 2, should_skip_update_fn=skips)
    state = tx.init({"w": torch.zeros(2)})
    _, before = tx.update({"w": torch.ones(2)}, state)
    updates, after = tx.update({"w": torch.full((2,), 50.0)}, before)
    assert not updates["w"].any()
    assert after.skip_state == {"should_skip": torch.tensor(True), "norm_squared": 5000.0}
    assert same(after._replace(skip_state=()), before._replace(skip_state=()))
    with pytest.raises(ValueError, match="should_skip_update_fn must give a 0-d bool tensor"):
        gx.multi_steps(gx.trace(0.9), 2, should_skip_update_fn=lambda *_: (True, ())).init(updates)
    with pytest.raises(ValueError, match="a 0-d bool tensor and a tree, got a bool"):
        gx.multi_steps(gx.trace(0.9), 2, should_skip_update_fn=lambda *_: True).init(updates)


def test_a_function_of_several_leaves_is_not_run_leaf_by_leaf() -> None:
    """The fuser sees one leaf at a time: sums over leaves that ``reduce`` has not made are none."""

    def many_large(updates: Any, step: torch.Tensor, params: Any) -> Any:
        large = [(u > 5).sum() for u in gx.tree.leaves(updates)]
        return torch.stack(large).sum() > 1, ()

    tx = gx.multi_steps(gx.scale(-1.0), 1, should_skip_update_fn=many_large)
    params, grads = {"a": torch.zeros(1), "b": torch.zeros(1)}, {"a": torch.tensor([9.0])}
    grads["b"] = grads["a"].clone()
    out, _ = gx.fuse(tx)(params, grads, tx.init(params))
    assert not out["a"].any()


def test_multi_steps_accumulates_half_precision_in_float32() -> None:
    tx = gx.multi_steps(gx.identity(), every_k=64)
    params = {"w": torch.zeros(1, dtype=torch.bfloat16)}
    state = tx.init(params)
    for i in range(64):
        value = 1.0 if i == 0 else 2.0**-8
        out, state = tx.update({"w": torch.tensor([value], dtype=torch.bfloat16)}, state, params)
    assert out["w"].item() == pytest.approx((1 + 63 * 2.0**-8) / 64, rel=1e-5)


def test_multi_steps_keeps_a_leaf_that_misses_the_last_gradient() -> None:
    tx = gx.multi_steps(gx.identity(), every_k=2)
    params = {"a": torch.zeros(1), "b": torch.zeros(1)}
    _, state = tx.update({"a": torch.ones(1), "b": torch.ones(1)}, tx.init(params), params)
    out, state = tx.update({"a": torch.ones(1), "b": None}, state, params)
    assert out["a"].item() == 1.0
    assert out["b"] is None
    # The gradient that "b" had is not lost: it counts in the next window.
    _, state = tx.update({"a": torch.ones(1), "b": torch.full((1,), 3.0)}, state, params)
    out, state = tx.update({"a": torch.ones(1), "b": torch.full((1,), 5.0)}, state, params)
    assert out["b"].item() == 3.0


@given(trees(), PERIODS, seeds)
def test_apply_every_emits_the_sum(params: Any, k: int, seed: int) -> None:
    tx = gx.apply_every(k)
    state, total = tx.init(params), gx.tree.zeros_like(params)
    for step in range(2 * k):
        grads = like(params, seed + step)
        out, state = tx.update(grads, state)
        total = gx.tree.map(torch.add, total, grads)
        if (step + 1) % k == 0:
            close(out, total)
            total = gx.tree.zeros_like(params)
        else:
            assert same(out, gx.tree.zeros_like(params))


@given(trees(), PERIODS, st.floats(0, 1, width=16), seeds)
def test_lookahead(params: Any, period: int, slow_step: float, seed: int) -> None:
    """Against slow and fast weights kept by hand."""
    tx = gx.lookahead(gx.scale(-0.1), sync_period=period, slow_step_size=slow_step)
    state, fast, slow, live = tx.init(params), params, params, params
    for step in range(5):
        grads = like(params, seed + step)
        out, state = tx.update(grads, state, live)
        live = gx.apply_updates(live, out)
        fast = gx.tree.map(lambda p, g: p - 0.1 * g, fast, grads)
        if (step + 1) % period == 0:
            slow = gx.tree.map(lambda s, f: s + slow_step * (f - s), slow, fast)
            fast = slow
        close(live, fast, rtol=1e-4, atol=1e-5)
        close(state.slow, slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
def test_periods(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"multi_steps: every_k must be an integer >= 1 or"):
        gx.multi_steps(gx.identity(), every_k=bad)
    with pytest.raises(ValueError, match=r"apply_every: k must be an integer >= 1, got"):
        gx.apply_every(bad)
    with pytest.raises(ValueError, match=r"lookahead: sync_period must be an integer >= 1, got"):
        gx.lookahead(gx.identity(), sync_period=bad)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_slow_step_size(bad: float) -> None:
    with pytest.raises(ValueError, match=r"lookahead: slow_step_size must be in \[0, 1\], got"):
        gx.lookahead(gx.identity(), slow_step_size=bad)


def test_multi_steps_passes_on_the_mean_of_all_values() -> None:
    """Plateaus are judged by all micro-batches, not by the last one of each step."""

    def seen(updates: Any, state: Any, params: Any = None, *, value: Any, **_: Any) -> Any:
        return gx.tree.map(lambda u: u * 0 + value, updates), state

    tx = gx.multi_steps(gx.transformation(lambda params: (), seen), every_k=2)
    params = {"w": torch.zeros(3, dtype=torch.float64)}
    state, outs = tx.init(params), []
    for value in (1.0, 4.0, 7.0, 1.0):
        out, state = tx.update(params, state, params, value=torch.tensor(value))
        outs.append(out["w"][0].item())
    assert outs == [0.0, 2.5, 0.0, 4.0]
