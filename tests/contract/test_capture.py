"""Stream capture (contract 29)."""

from __future__ import annotations

import pytest
import torch

from .cases import SHAPES, assert_close, parameters, set_gradients

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_gpu() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(p.detach().cuda()) for p in parameters()]


def gradients_into(buffers: list[torch.Tensor], t: int) -> None:
    for buffer, p in zip(buffers, parameters(), strict=True):
        set_gradients([p], t)
        buffer.copy_(p.grad)


def test_replay_equals_eager_with_a_changing_rate(case):  # 29
    mine, theirs = on_gpu(), on_gpu()
    rate = torch.tensor(0.05, device="cuda")
    opt = case.make(mine, lr=rate, capturable=True)
    plain = case.make(theirs, lr=0.05)
    buffers = [torch.zeros(s, device="cuda") for s in SHAPES]
    others = [torch.zeros(s, device="cuda") for s in SHAPES]
    for p, g, q, h in zip(mine, buffers, theirs, others, strict=True):
        p.grad, q.grad = g, h

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for t in range(3):
            gradients_into(buffers, t)
            opt.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        opt.step()
    for t in range(3):
        gradients_into(others, t)
        plain.step()
    for t in range(3, 7):
        rate.fill_(0.05 / t)
        plain.param_groups[0]["lr"] = 0.05 / t
        gradients_into(buffers, t)
        gradients_into(others, t)
        graph.replay()
        plain.step()
        assert_close([p.cpu() for p in mine], [q.cpu() for q in theirs], rtol=1e-5)


def test_capture_without_the_flag_is_refused(case):  # 29
    params = on_gpu()
    opt = case.make(params)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    name = type(opt).__name__
    words = f"capture of step\\(\\) for an instance of {name} but param_groups' capturable is False"
    with pytest.raises(RuntimeError, match=words), torch.cuda.graph(graph):
        opt.step()


def test_no_synchronization(case):  # 29
    params = on_gpu()
    opt = case.make(params, lr=torch.tensor(0.05, device="cuda"), capturable=True)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        opt.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_counters_live_on_the_device(case):  # 29
    params = on_gpu()
    opt = case.make(params, capturable=True)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    assert {t.device.type for s in opt.state.values() for t in tensors(s)} == {"cuda"}


def tensors(nested: dict) -> list[torch.Tensor]:
    out = []
    for value in nested.values():
        out.extend(tensors(value) if isinstance(value, dict) else [value])
    return out
