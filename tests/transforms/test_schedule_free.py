"""schedule_free against its definition with all three sequences, and the conversions of points."""

from __future__ import annotations

import math

import pytest
import torch

import gradtx as gx

DOUBLE = torch.float64
START = {"w": torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE), "s": torch.tensor(3.0, dtype=DOUBLE)}


def slope(params, t):
    """A gradient that depends on the point."""
    return gx.tree.map(lambda p: 0.7 * p + math.sin(3.0 * t), params)


def definition(lrs, b1s, warmup=0, r=0.0, power=2.0):
    """x, y, z by the published recursion, on the gradient itself as the direction."""
    x = y = z = START
    total, largest = 0.0, 0.0
    for t, (lr, b1) in enumerate(zip(lrs, b1s, strict=True), start=1):
        g = slope(y, t)
        lr = lr * min(t / warmup, 1.0) if warmup else lr
        largest = max(largest, lr)
        weight = t**r * largest**power
        total += weight
        c = weight / total if total else 0.0
        z = gx.tree.map(lambda z, g, lr=lr: z - lr * g, z, g)
        x = gx.tree.map(lambda x, z, c=c: (1 - c) * x + c * z, x, z)
        y = gx.tree.map(lambda x, z, b1=b1: (1 - b1) * z + b1 * x, x, z)
    return x, y, z


def run(tx, steps, hyper=lambda t: None):
    params, state = START, tx.init(START)
    for t in range(1, steps + 1):
        updates, state = tx.update(slope(params, t), state, params, hyper=hyper(t))
        params = gx.apply_updates(params, updates)
    return params, state


def assert_close(got, want):
    for name in START:
        torch.testing.assert_close(got[name], want[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("r", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("warmup", [0, 4])
def test_is_the_published_recursion(warmup, r, power):
    options = {"warmup_steps": warmup, "r": r, "weight_lr_power": power}
    y, state = run(gx.schedule_free(gx.identity(), 0.3, 0.8, **options), 9)
    want = definition([0.3] * 9, [0.8] * 9, warmup, r, power)
    assert_close(gx.schedule_free_eval_params(state, y), want[0])
    assert_close(y, want[1])
    assert_close({k: s.z for k, s in state["schedule_free"].items()}, want[2])


def test_a_learning_rate_that_moves():
    """Weights follow the largest learning rate so far; a rate of zero first weighs nothing."""
    lrs = [0.0, 0.0, 0.1, 0.4, 0.2, 0.0, 0.5]
    tx = gx.schedule_free(gx.identity(), 1.0, 0.9)
    y, state = run(tx, 7, lambda t: {"lr": lrs[t - 1]})
    want = definition(lrs, [0.9] * 7)
    assert_close(y, want[1])
    assert_close(gx.schedule_free_eval_params(state, y), want[0])
    scheduled, _ = run(gx.schedule_free(gx.identity(), lambda n: torch.tensor(lrs)[n], 0.9), 7)
    for name in START:
        torch.testing.assert_close(scheduled[name], y[name], rtol=1e-6, atol=1e-7)


def test_b1_may_change_between_steps():
    b1s = [0.9, 0.5, 0.7, 1.0, 0.95]
    y, state = run(gx.schedule_free(gx.identity(), 0.2), 5, lambda t: {"b1": b1s[t - 1]})
    want = definition([0.2] * 5, b1s)
    assert_close(y, want[1])
    assert_close(gx.schedule_free_eval_params(state, y), want[0])


def test_every_leaf_has_its_own_learning_rate_and_weights():
    tx = gx.schedule_free(gx.identity(), 1.0)
    y, _ = run(tx, 6, lambda t: {"lr": {"w": 0.1 * t, "s": 0.3}})
    assert_close(
        {**y, "s": START["s"]},
        {**definition([0.1 * t for t in range(1, 7)], [0.9] * 6)[1], "s": START["s"]},
    )
    torch.testing.assert_close(y["s"], definition([0.3] * 6, [0.9] * 6)[1]["s"])


def test_a_leaf_without_gradient_waits():
    tx = gx.schedule_free(gx.identity(), 0.3)
    params, state = START, tx.init(START)
    for t in range(1, 4):
        grads = {"w": None, "s": slope(params, t)["s"]}
        updates, state = tx.update(grads, state, params)
        params = gx.apply_updates(params, updates)
    assert params["w"] is START["w"]
    assert state["schedule_free"]["w"].step == 0


def test_equal_weights_are_counted_exactly_in_float32():
    """After a million steps, and with weights that float32 could not square."""
    member = gx.schedule_free(gx.identity(), 1e-25)["schedule_free"]
    params = {"w": torch.zeros(1)}
    state = member.init(params)
    many = torch.tensor(2.0**20)
    state = {"w": state["w"]._replace(averaged=many, lr_max=torch.tensor(1e-25))}
    for i in range(1, 4):
        _, state = member.update({"w": torch.ones(1)}, state, params)
        assert state["w"].averaged == many + i


def test_points_convert_back_and_forth():
    y, state = run(gx.schedule_free(gx.trace(0.5), 0.3, 0.7), 5)
    x = gx.schedule_free_eval_params(state, y)
    assert not torch.allclose(x["w"], y["w"])
    assert_close(gx.schedule_free_train_params(state, x), y)
    fresh = gx.schedule_free(gx.trace(0.5), 0.3).init(START)
    assert_close(gx.schedule_free_eval_params(fresh, START), START)


def test_points_keep_their_dtype():
    tx = gx.schedule_free(gx.identity(), 0.25, 0.5)
    params = {"w": torch.ones(2, dtype=torch.bfloat16)}
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(params, state, params)
        params = gx.apply_updates(params, updates)
    x = gx.schedule_free_eval_params(state, params)
    assert state["schedule_free"]["w"].z.dtype == torch.float32
    assert x["w"].dtype == torch.bfloat16
    assert x["w"].tolist() == [0.65625, 0.65625]  # the mean of 0.75 and 0.75 - 0.25 * 0.75


def deep(lr):
    return gx.chain(gx.clip(10.0), gx.apply_if_finite(gx.schedule_free(gx.identity(), lr)))


def test_the_state_is_found_wherever_it_is():
    want, flat = run(gx.schedule_free(gx.identity(), 0.25), 4)
    want = gx.schedule_free_eval_params(flat, want)
    y, state = run(deep(0.25), 4)
    assert_close(gx.schedule_free_eval_params(state, y), want)
    y, state = run(gx.schedule_free(gx.identity(), lambda n: 0.25 + 0 * n), 4)
    assert_close(gx.schedule_free_eval_params(state, y), want)
    split = gx.partition(
        {"w": deep(0.25), "s": deep(0.25), "rest": gx.scale(-1.0)}, by={"w": "w", "s": "s"}
    )
    y, state = run(split, 4)
    assert_close(gx.schedule_free_eval_params(state, y), want)
    lone = torch.ones(2)
    tx = gx.schedule_free(gx.identity(), 0.25)
    assert torch.equal(gx.schedule_free_eval_params(tx.init(lone), lone), lone)


def test_leaves_outside_stay():
    tx = gx.partition(
        {"a": gx.schedule_free(gx.identity(), 0.3), "b": gx.scale(-0.3)}, by={"w": "a", "s": "b"}
    )
    y, state = run(tx, 3)
    x = gx.schedule_free_eval_params(state, y)
    assert x["s"] is y["s"]
    assert not torch.equal(x["w"], y["w"])
    assert gx.schedule_free_eval_params(state, {"w": y["w"], "s": None})["s"] is None


def test_errors():
    with pytest.raises(ValueError, match="schedule_free_eval_params: the state has no"):
        gx.schedule_free_eval_params(gx.trace(0.9).init(START), START)
    with pytest.raises(ValueError, match=r"schedule_free: b1 must be in \(0, 1\], got 0"):
        gx.schedule_free(gx.identity(), 0.1, 0.0)
    with pytest.raises(ValueError, match="schedule_free: warmup_steps must be an integer >= 0"):
        gx.schedule_free(gx.identity(), 0.1, warmup_steps=1.5)
    for name in ("r", "weight_lr_power"):
        with pytest.raises(ValueError, match=rf"schedule_free: {name} must be in \[0, inf\)"):
            gx.schedule_free(gx.identity(), 0.1, **{name: -1.0})
    tx = gx.schedule_free(gx.identity(), 0.1)
    with pytest.raises(ValueError, match="schedule_free: needs the parameters"):
        tx.update(START, tx.init(START))


def test_adamw_direction():
    """One step from the start: y moves by the whole step, with the decay taken at y."""
    tx = gx.schedule_free_adamw(0.5, weight_decay=0.1)
    updates, state = tx.update(slope(START, 1), tx.init(START), START)
    for name, p in START.items():
        want = -0.5 * (torch.sign(slope(START, 1)[name]) + 0.1 * p)
        torch.testing.assert_close(updates[name], want, rtol=1e-6, atol=1e-7)
    assert list(state) == ["scale_by_rms", "add_decayed_weights", "schedule_free"]
    momentum = gx.schedule_free_adamw(0.5, inner_momentum=0.9)
    assert next(iter(momentum.init(START))) == "scale_by_adam"


def test_derivative_of_the_learning_rate_at_the_first_step():
    """Fractional powers have no slope at zero, where the weights begin."""
    tx = gx.schedule_free(gx.identity(), 0.1, warmup_steps=2, r=0.5, weight_lr_power=0.5)

    def total(lr):
        updates, state = tx.update(START, tx.init(START), START, hyper={"lr": lr})
        updates, _ = tx.update(START, state, START, hyper={"lr": lr})
        return updates["w"].sum()

    assert torch.func.grad(total)(torch.tensor(0.1, dtype=DOUBLE)).isfinite()
