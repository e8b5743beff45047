"""Schedules whose values are tensors: the same numbers, learned and mapped over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

import gradtx as gx

S = gx.schedules
CYCLE = {"init_value": 0.0, "warmup_steps": 1, "decay_steps": 3}
MAKES: dict[str, Callable[[Any], gx.schedules.Schedule]] = {
    "constant": lambda a: S.constant(a),
    "polynomial": lambda a: S.polynomial(a, a * 0.1, 1 + a, 10),
    "linear": lambda a: S.linear(a, a / 2, 10),
    "exponential_decay": lambda a: S.exponential_decay(a, 2, 0.3 + a, end_value=a / 2),
    "staircase": lambda a: S.exponential_decay(a, 2, 1 + a, end_value=a * 1.15, staircase=True),
    "cosine_decay": lambda a: S.cosine_decay(a, 10, a, 1 + a),
    "warmup_constant": lambda a: S.warmup_constant(a / 10, a, 2),
    "warmup_cosine_decay": lambda a: S.warmup_cosine_decay(a / 10, a, 2, 10, a / 10, 1 + a),
    "warmup_exponential_decay": lambda a: S.warmup_exponential_decay(a / 10, a, 2, 10, 0.5 + a),
    "warmup_stable_decay": lambda a: S.warmup_stable_decay(0.0, a, 1, 1, 4, a / 10, "sqrt"),
    "linear_onecycle": lambda a: S.linear_onecycle(10, a, 0.25 + a, 0.55 + a, 25 + a, 3 + a),
    "cosine_onecycle": lambda a: S.cosine_onecycle(10, a, 0.25 + a, 25 + a, 3 + a),
    "piecewise_constant": lambda a: S.piecewise_constant(a, {2: 0.5, 3: a}),
    "piecewise_interpolate": lambda a: S.piecewise_interpolate("cosine", a, {2: 0.5, 4: a}),
    "sgdr": lambda a: S.sgdr([{**CYCLE, "peak_value": a}] * 2),
    "join": lambda a: S.join([S.constant(a), S.linear(a, 0.0, 4)], [2]),
}
each = pytest.mark.parametrize("make", MAKES.values(), ids=list(MAKES))


def final(a: Any, make: Callable[[Any], Any]) -> Tensor:
    tx, params = gx.sgd(make(a)), {"w": torch.ones(2, dtype=torch.float64)}
    state, grads = tx.init(params), params
    for _ in range(4):
        updates, state = tx.update(grads, state, params)
        params = gx.apply_updates(params, updates)
    return params["w"].sum()


@each
def test_same_values(make: Callable[[Any], Any]) -> None:
    for t in (0, 1, 2, 5, 20):
        want = make(0.1)(t)
        assert make(np.float64(0.1))(t) == want
        for count in (t, torch.tensor(t)):
            got = make(torch.tensor(0.1, dtype=torch.float64))(count)
            assert isinstance(got, Tensor)
            assert got.item() == pytest.approx(want, rel=1e-12, abs=1e-15)


@each
def test_learned_and_mapped_over(make: Callable[[Any], Any]) -> None:
    a, h = torch.tensor(0.1, dtype=torch.float64), 1e-6
    slope = (final(a + h, make) - final(a - h, make)) / (2 * h)
    torch.testing.assert_close(grad(final)(a, make), slope, rtol=1e-5, atol=1e-6)
    both = torch.tensor([0.1, 0.2], dtype=torch.float64)
    mapped = vmap(lambda x: final(x, make))(both)
    torch.testing.assert_close(mapped, torch.stack([final(x, make) for x in both]))


def test_a_fused_step_follows_the_tensor() -> None:
    """Its value is no constant of the kernels."""
    rate, params = torch.tensor(0.5), {"w": torch.zeros(1)}
    step = gx.fuse(gx.sgd(S.cosine_decay(rate, 1000)))
    state = step.transform.init(params)
    params, state = step(params, {"w": torch.ones(1)}, state)
    rate.fill_(2.0)
    params, state = step(params, {"w": torch.ones(1)}, state)
    assert params["w"].item() == pytest.approx(-2.5, rel=1e-4)


@pytest.mark.parametrize("bad", [torch.ones(2), torch.tensor(True), torch.tensor(torch.nan)])
def test_other_tensors_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match=r"schedules.cosine_decay: init_value must be"):
        S.cosine_decay(bad, 10)
