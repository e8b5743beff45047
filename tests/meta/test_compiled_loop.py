"""A train step as one compiled function: other values of hyperparameters compile nothing anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad_and_value

import gradtx as gx

SCHEDULES = {
    "constant": 0.1,
    "cosine": gx.schedules.cosine_decay(0.1, 4),
    "warmup": gx.schedules.warmup_cosine_decay(0.0, 0.1, 2, 4),
    "piecewise": gx.schedules.piecewise_constant(0.1, {2: 0.5}),
}


@pytest.fixture(autouse=True)
def _clean_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def step_of(tx: gx.GradientTransformation) -> Any:
    def loss(params: Any, x: Tensor) -> Tensor:
        return torch.tanh(x @ params["w"] + params["b"]).square().mean()

    def step(params: Any, state: Any, x: Tensor, hyper: Any) -> Any:
        grads, value = grad_and_value(loss)(params, x)
        updates, state = tx.update(grads, state, params, hyper=hyper)
        return gx.apply_updates(params, updates), state, value

    return step


def follows(tx: gx.GradientTransformation, hypers: list[dict[str, Any]]) -> None:
    """The compiled steps are the eager ones, and those after the first compile nothing."""
    step = step_of(tx)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    generator = torch.Generator().manual_seed(0)
    params = {"w": torch.randn(4, 3, generator=generator), "b": torch.zeros(3)}
    now = want = (params, tx.init(params))
    for i, hyper in enumerate(hypers):
        x = torch.randn(8, 4, generator=generator)
        with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            *now, value = compiled(*now, x, hyper)
        *want, expected = step(*want, x, hyper)
        torch.testing.assert_close(value, expected)
    torch.testing.assert_close(now[0], want[0])


@pytest.mark.parametrize("name", SCHEDULES)
def test_values_of_schedules(name: str) -> None:
    follows(gx.adamw(SCHEDULES[name], weight_decay=0.1), [{}] * 5)


def test_values_of_tensors() -> None:
    tensors = [
        {"lr": torch.tensor(0.1 / i), "b1": torch.tensor(1 - 0.5 / i), "eps": torch.tensor(0.1**i)}
        for i in range(1, 6)
    ]
    follows(gx.adamw(), tensors)
