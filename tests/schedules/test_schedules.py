"""Schedules: forms of the count, dtype, compilation, value objects, bad arguments."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

import gradtx as gx

S = gx.schedules
CYCLE = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 6}

SCHEDULES = [
    S.constant(0.3),
    S.linear(0.0, 1e-3, 7, transition_begin=2),
    S.polynomial(1.0, 0.1, 2, 7),
    S.exponential_decay(1.0, 3, 0.5, transition_begin=2, end_value=0.1),
    S.exponential_decay(1.0, 3, 0.5, staircase=True),
    S.cosine_decay(1.0, 9, alpha=0.1, exponent=2.0),
    S.warmup_constant(0.0, 0.7, 4),
    S.warmup_constant(0.0, 0.7, 0),
    S.warmup_cosine_decay(0.1, 1.0, 3, 9, 0.01),
    S.warmup_exponential_decay(0.1, 1.0, 3, 2, 0.5, 1, end_value=0.2),
    S.warmup_stable_decay(0.1, 1.0, 3, 4, 5, 0.01),
    S.warmup_stable_decay(0.1, 1.0, 3, 4, 5, 0.01, "cosine"),
    S.warmup_stable_decay(0.1, 1.0, 0, 0, 5, 0.01, "sqrt"),
    S.linear_onecycle(13, 0.9),
    S.cosine_onecycle(13, 0.9),
    S.sgdr([CYCLE, CYCLE]),
    S.piecewise_constant(1.0, {3: 0.1, 5: 3.0}),
    S.piecewise_interpolate("cosine", 1.0, {3: 0.1, 5: 3.0}),
    S.join([S.linear(0.0, 1.0, 3), S.constant(1.0), S.cosine_decay(1.0, 4)], [3, 6]),
]
COUNTS = torch.arange(-1, 25, dtype=torch.int32)

each = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


@each
def test_a_python_count_and_a_tensor_give_the_same_value(schedule):
    for count in COUNTS:
        value, tensor = schedule(int(count)), schedule(count)
        assert type(value) is float
        assert tensor.dtype == torch.float64
        assert tensor.shape == ()
        assert tensor.item() == pytest.approx(value, rel=1e-14, abs=1e-16)


@each
def test_batched_counts(schedule):
    one_by_one = torch.stack([schedule(count) for count in COUNTS])
    torch.testing.assert_close(schedule(COUNTS), one_by_one, rtol=1e-14, atol=1e-16)
    torch.testing.assert_close(torch.vmap(schedule)(COUNTS), one_by_one, rtol=1e-14, atol=1e-16)
    assert schedule(COUNTS.reshape(2, 13)).shape == (2, 13)


@each
def test_compiles_to_one_graph(schedule):
    torch._dynamo.reset()
    compiled = torch.compile(schedule, fullgraph=True, backend="aot_eager")
    for count in COUNTS[:3]:
        torch.testing.assert_close(compiled(count), schedule(count))


@each
def test_is_a_value(schedule):
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert eval(repr(schedule), vars(S)) == schedule


@each
def test_stays_on_the_device_of_the_count(schedule):
    count = torch.zeros((), dtype=torch.int32, device="meta")
    assert schedule(count).device.type == "meta"


def test_float32_scalars_stay_float32_and_get_the_python_result():
    schedule = S.cosine_decay(0.1, 7)
    tx = gx.scale_by_learning_rate(schedule)
    params = {"s": torch.tensor(0.7), "w": torch.rand(5)}
    state = tx.init(params)
    for t in range(5):
        updates, state = tx.update(params, state)
        for name, p in params.items():
            assert updates[name].dtype == torch.float32
            torch.testing.assert_close(updates[name], p * -schedule(t), rtol=2e-7, atol=0)


def test_scheduled_decay_with_a_mask():
    schedule = S.linear(0.0, 1.0, 4)
    tx = gx.add_decayed_weights(schedule, mask=lambda info: info.ndim > 1)
    params = {"s": torch.ones(()), "w": torch.ones(2, 2)}
    state = tx.init(params)
    for t in range(6):
        updates, state = tx.update(gx.tree.zeros_like(params), state, params)
        assert updates["s"] == 0
        assert torch.equal(updates["w"], torch.full((2, 2), min(t / 4, 1.0)))


@pytest.mark.parametrize(
    ("shape", "middle"), [("linear", 0.75), ("cosine", 0.5 + 2**0.5 / 4), ("sqrt", 0.5)]
)
def test_warmup_stable_decay(shape, middle):
    schedule = S.warmup_stable_decay(0.0, 2.0, 4, 3, 8, end_value=1.0, shape=shape)
    rise = [schedule(t) for t in range(5)]
    assert rise == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert [schedule(t) for t in range(4, 8)] == [2.0] * 4
    assert schedule(4 + 3 + 2) == pytest.approx(1.0 + middle)
    assert [schedule(t) for t in (15, 16, 1000)] == [1.0] * 3


def test_join_passes_integer_counts_to_plain_functions():
    seen = []

    def plain(count):
        seen.append(count)
        return 2.0

    schedule = S.join([plain, S.constant(1.0)], [3])
    assert schedule(1) == 2.0
    out = schedule(torch.tensor(1, dtype=torch.int32))
    assert out.dtype == torch.float64
    assert out.item() == 2.0
    assert [getattr(c, "dtype", int) for c in seen] == [int, torch.int32]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: S.constant(math.nan), "schedules.constant: value must be a finite number"),
        (lambda: S.linear(0.0, "1", 3), "schedules.linear: end_value must be a finite number"),
        (
            lambda: S.linear(0.0, 1.0, 0),
            "schedules.linear: transition_steps must be an integer >= 1",
        ),
        (lambda: S.linear(0.0, 1.0, 2.5), "transition_steps must be an integer >= 1, got 2.5"),
        (lambda: S.linear(0.0, 1.0, 2, -1), "transition_begin must be an integer >= 0, got -1"),
        (lambda: S.polynomial(0.0, 1.0, 0, 5), "schedules.polynomial: power must be .* > 0"),
        (lambda: S.exponential_decay(1.0, 5, 0.0), "schedules.exponential_decay: decay_rate"),
        (lambda: S.cosine_decay(1.0, 0), "schedules.cosine_decay: decay_steps must be an integer"),
        (lambda: S.cosine_decay(1.0, True), "schedules.cosine_decay: decay_steps must be an int"),
        (lambda: S.warmup_constant(0.0, 1.0, -1), "schedules.warmup_constant: warmup_steps"),
        (
            lambda: S.warmup_cosine_decay(0.0, 1.0, 5, 5),
            "decay_steps must be an integer >= 6, got 5",
        ),
        (lambda: S.warmup_stable_decay(0, 1, 1, 1, 1, shape="x"), "shape must be one of"),
        (lambda: S.linear_onecycle(10, 1.0, 0.5, 0.4), "schedules.linear_onecycle: pct_final"),
        (lambda: S.cosine_onecycle(10, 1.0, 1.5), "schedules.cosine_onecycle: pct_start"),
        (lambda: S.sgdr([]), "schedules.sgdr: needs at least one cycle"),
        (lambda: S.piecewise_constant(1.0, {-1: 0.5}), "a boundary must be an integer >= 0"),
        (lambda: S.piecewise_constant(1.0, {2: -0.5}), "the factor at step 2 must be >= 0"),
        (lambda: S.piecewise_interpolate("cubic", 1.0), "interpolate_type must be one of"),
        (lambda: S.join([S.constant(1.0)], [3]), "schedules.join: needs one boundary less"),
        (lambda: S.join([S.constant(1.0)] * 3, [3, 2]), "boundaries must not decrease"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_join_refuses_what_is_not_callable():
    with pytest.raises(TypeError, match=r"schedules\.join: a schedule must be callable, got float"):
        S.join([1.0], [])
