"""Fused steps on a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from tests.fuse.helpers import assert_same, copy, tensors
from tests.fuse.test_matrix import CHAINS as MATRICES
from tests.fuse.test_table import CHAINS as FLAT

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CHAINS = {k: v for k, v in (FLAT | MATRICES).items() if k != "extremes"}  # of nothing
SHAPES = {
    **{"scalar": (), "empty": (0,), "one": (1,), "odd": (1031,), "w": (64, 33)},
    **{"chunks": (3, 8192), "tiles": (700, 801)},
}


def on_device(values: Any) -> Any:
    return gx.tree.map(lambda x: x.cuda() if isinstance(x, Tensor) else x, values)


def batch(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return on_device(tensors(SHAPES, seed, dtype))


@pytest.fixture
def strict() -> Iterator[Any]:
    """Turn waiting for the device into an error."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", CHAINS)
def test_fused_is_pure(name: str, dtype: torch.dtype) -> None:
    tx = CHAINS[name]()
    params, step = batch(0, dtype), gx.fuse(tx)
    state = tx.init(params)
    pure, pure_state = copy(params), copy(state)
    for t in range(4):
        grads = batch(t + 1, dtype)
        step(params, grads, state)
        updates, pure_state = tx.update(grads, pure_state, pure)
        pure = gx.apply_updates(pure, updates)
    assert step.report() == "everything is fused"
    tolerance = {torch.float32: 3e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}.get(dtype, 1e-9)
    assert_same((params, state), (pure, pure_state), rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("name", ["clipped adamw", "factored adam", "unit clipping"])
def test_two_runs_agree_bit_for_bit(name: str) -> None:
    tx = CHAINS[name]()
    results = []
    for _ in range(2):
        params, step = batch(0), gx.fuse(tx)
        state = tx.init(params)
        for t in range(3):
            step(params, batch(t + 1), state)
        results.append((params, state))
    assert_same(*results, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["clipped adamw", "cautious", "skipping", "factored adam"])
def test_no_step_waits_for_the_device(name: str, strict: Any) -> None:
    tx = CHAINS[name]()
    params, step = batch(0), gx.fuse(tx)
    state, grads = tx.init(params), [batch(t) for t in range(3)]
    step(params, grads[0], state)
    strict()
    for g in grads[1:]:
        step(params, g, state)
    torch.cuda.set_sync_debug_mode("default")
    assert step.report() == "everything is fused"


def test_another_stream() -> None:
    tx = gx.adamw(0.1)
    params, grads, step = batch(0), batch(1), gx.fuse(tx)
    state = tx.init(params)
    pure = copy(params)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        grads["w"].fill_(0.5)  # the step has to come after this, on its own stream
        step(params, grads, state)
    torch.cuda.current_stream().wait_stream(side)
    updates, _ = tx.update(grads, tx.init(pure), pure)
    assert_same(params, gx.apply_updates(pure, updates))


@pytest.mark.parametrize("name", ["adamw", "factored adam"])
def test_graph_capture_with_a_learning_rate_tensor(name: str) -> None:
    tx = gx.chain(gx.clip_by_global_norm(0.5), gx.adamw(0.1))
    if name == "factored adam":
        tx = gx.chain(MATRICES[name](), gx.scale_by_learning_rate(0.1))
    params, grads, step = batch(0), batch(1), gx.fuse(tx)
    state, lr = tx.init(params), torch.tensor(0.1, device="cuda")
    pure, pure_state = copy(params), copy(state)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(params, grads, state, hyper={"lr": lr})
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(params, grads, state, hyper={"lr": lr})
    rates = [0.1, 0.2, 0.3, 0.05]
    for rate in rates[1:3]:
        lr.fill_(rate)
        graph.replay()
    step(params, batch(2), state, hyper={"lr": rates[3]})  # outside, with other gradients
    lr.fill_(0.4)
    graph.replay()
    for rate, g in zip((*rates, 0.4), (grads, grads, grads, batch(2), grads), strict=True):
        updates, pure_state = tx.update(g, pure_state, pure, hyper={"lr": rate})
        pure = gx.apply_updates(pure, updates)
    assert_same((params, state), (pure, pure_state))


def test_tensors_on_different_devices_are_refused() -> None:
    step = gx.fuse(gx.adamw(0.1))
    params = batch(0)
    state = step.transform.init(params)
    before = copy((params, state))
    with pytest.raises((RuntimeError, ValueError)):
        step(params, tensors(SHAPES, 1), state)
    assert_same((params, state), before, rtol=0, atol=0)
