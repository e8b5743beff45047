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


def follows(
    tx: gx.GradientTransformation,
    hypers: list[dict[str, Any]],
    compiling: int = 1,
    dynamic: bool | None = None,
) -> None:
    """The compiled steps are the eager ones, and those after the first few compile nothing."""
    step = step_of(tx)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    generator = torch.Generator().manual_seed(0)
    params = {"w": torch.randn(4, 3, generator=generator), "b": torch.zeros(3)}
    now = want = (params, tx.init(params))
    for i, hyper in enumerate(hypers):
        x = torch.randn(8, 4, generator=generator)
        with torch.compiler.set_stance("fail_on_recompile" if i >= compiling else "default"):
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


def numbers(**first: float) -> list[dict[str, Any]]:
    """Six values of every hyperparameter, all different."""
    return [{name: x * 0.9**i for name, x in first.items()} for i in range(6)]


ADAM = {"lr": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-6, "eps_root": 1e-8}
CHAINS: dict[str, tuple[gx.GradientTransformation, dict[str, float]]] = {
    "adamw": (gx.adamw(weight_decay=0.1), {**ADAM, "weight_decay": 0.1}),
    "lion": (gx.lion(), {"lr": 0.01, "b1": 0.9, "b2": 0.99, "weight_decay": 0.1}),
    "radam": (gx.radam(), {"lr": 0.01, "b1": 0.9, "b2": 0.99}),
    "clipped": (
        gx.chain(gx.clip_by_global_norm(1.0), gx.sgd(0.1, momentum=0.9)),
        {"max_norm": 0.1, "lr": 0.1, "decay": 0.9},
    ),
    "mechanize": (gx.mechanize(gx.sgd(0.1)), {"lr": 0.1, "weight_decay": 0.1}),
}


@pytest.mark.parametrize(
    "name",
    [n if n in ("adamw", "clipped") else pytest.param(n, marks=pytest.mark.slow) for n in CHAINS],
)
def test_numbers_compile_once_more_when_they_change_first(name: str) -> None:
    """Torch takes a number for a constant until it has changed."""
    tx, first = CHAINS[name]
    follows(tx, numbers(**first), compiling=2)


@pytest.mark.slow
def test_numbers_compile_nothing_with_dynamic_shapes() -> None:
    follows(CHAINS["adamw"][0], numbers(**ADAM), dynamic=True)


def test_numbers_by_leaf() -> None:
    hypers = [{"lr": {"w": 0.1 / i, "b": 0.2 / i}} for i in range(1, 6)]
    follows(gx.sgd(), hypers, compiling=2)


def test_numbers_in_a_step_that_is_differentiated() -> None:
    tx, w = gx.sgd(), torch.ones(3)

    def slope(w: Tensor, hyper: Any) -> Any:
        def after(w: Tensor) -> Tensor:
            updates, _ = tx.update(2 * w, tx.init(w), w, hyper=hyper)
            return gx.apply_updates(w, updates).square().sum()

        return torch.func.grad(after)(w)

    compiled = torch.compile(slope, fullgraph=True, backend="aot_eager")
    for i in range(4):
        with torch.compiler.set_stance("fail_on_recompile" if i >= 2 else "default"):
            got = compiled(w, {"lr": 0.1 * (i + 1)})
        torch.testing.assert_close(got, 2 * (1 - 0.2 * (i + 1)) ** 2 * w)


def test_intervals_hold_where_a_number_is_an_input() -> None:
    tx, w = gx.trace(0.9), torch.ones(3)
    step = torch.compile(tx.update, fullgraph=True, backend="eager", dynamic=True)
    for decay in (0.9, 0.8):
        step(w, tx.init(w), hyper={"decay": decay})
    with pytest.raises(Exception, match=r"trace: decay must be in \[0, 1\]"):
        step(w, tx.init(w), hyper={"decay": 1.5})
