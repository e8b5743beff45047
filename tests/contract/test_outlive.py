"""Gradients are gone after a step, at once: nothing keeps them, no cycle of references either."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch

import gradtx as gx

from .cases import asked
from .every import CLASSES, make

Change = Callable[[int, list[torch.nn.Parameter]], None]


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What reference counts do not free stays."""
    gc.disable()
    yield
    gc.enable()


def _without_the_second(step: int, params: list[torch.nn.Parameter]) -> None:
    if step % 2:
        params[1].grad = None


def _swapped(step: int, params: list[torch.nn.Parameter]) -> None:
    params[0].data = params[0].data.clone()


def _nothing(step: int, params: list[torch.nn.Parameter]) -> None:
    pass


@pytest.mark.parametrize("fused", [None, False], ids=["fused", "torch"])
@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_no_gradient_outlives_a_step(cls: type, fused: bool | None, no_collector: None) -> None:
    params = [torch.nn.Parameter(torch.randn(6, 5)), torch.nn.Parameter(torch.randn(7))]
    opt, seen = make(cls, params, fused=fused), []
    for change in (_nothing, _without_the_second, _swapped) if fused is None else (_nothing,):
        for step in range(3 if fused is None else 2):
            for p in params:
                p.grad = torch.randn_like(p)
                seen.append(weakref.ref(p.grad))
            change(step, params)
            opt.step(**asked(opt))
            opt.zero_grad()
            assert not sum(ref() is not None for ref in seen), (change.__name__, step)


@pytest.mark.parametrize("name", ["AdamW", "GaLoreAdamW", "Muon"])
def test_no_gradient_outlives_a_step_in_backward(name: str, no_collector: None) -> None:
    params = [torch.nn.Parameter(torch.randn(6, 5)), torch.nn.Parameter(torch.randn(7))]
    seen: list[weakref.ref[torch.Tensor]] = []
    for p in params:  # hooks run in order: these see the gradients first
        p.register_post_accumulate_grad_hook(lambda p: seen.append(weakref.ref(p.grad)))
    with gx.optim.step_in_backward(make(getattr(gx.optim, name), params)):
        for _ in range(3):
            sum(p.square().sum() for p in params).backward()
    assert len(seen) == 6
    assert not any(ref() is not None for ref in seen)


def test_no_gradient_outlives_a_functional_step(no_collector: None) -> None:
    step = gx.fuse(gx.muon(0.1))
    params = {"w": torch.randn(6, 5), "b": torch.randn(7)}
    state, seen = step.transform.init(params), []
    for t in range(4):
        grads = {k: torch.randn_like(p) for k, p in params.items()}
        seen += map(weakref.ref, grads.values())
        if t % 2:
            grads["b"] = None
        params, state = step(params, grads, state)
        del grads
        assert not any(ref() is not None for ref in seen), t
