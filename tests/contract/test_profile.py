"""Profiler events, wrapping of ``step``, ``zero_grad`` (contract 32, 33)."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import gradtx as gx

from .cases import assert_equal, parameters, run, set_gradients

# torch 2.10 warns about a profiler that runs only once.
pytestmark = pytest.mark.filterwarnings("ignore:.*Profiler clears events:UserWarning")


def events(opt: torch.optim.Optimizer) -> list[str]:
    with profile(activities=[ProfilerActivity.CPU]) as prof:
        opt.step()
        opt.zero_grad()
    return [e.name for e in prof.events() if e.name.startswith("Optimizer.")]


def test_event_names(case):  # 32
    params = parameters()
    opt = case.make(params)
    set_gradients(params, 0)
    name = type(opt).__name__
    assert events(opt) == [f"Optimizer.step#{name}.step", f"Optimizer.zero_grad#{name}.zero_grad"]


def test_classes_have_the_names_of_the_optimizers():  # 32
    assert gx.optim.AdamW.__name__ == "AdamW"
    params = parameters()
    assert "Optimizer.step#AdamW.step" in events(gx.optim.AdamW(params))


def test_step_is_wrapped_once_per_class(case):  # 32
    opt = case.make(parameters())
    wrapped = type(opt).step
    assert wrapped.hooked
    case.make(parameters())
    assert type(opt).step is wrapped
    assert not hasattr(inspect.unwrap(wrapped), "hooked")
    calls: list[int] = []
    opt.register_step_pre_hook(lambda *_: calls.append(0))
    opt.register_step_post_hook(lambda *_: calls.append(1))
    opt.step()
    assert calls == [0, 1]


def test_a_subclass_may_override_step():  # 32
    class Counting(gx.optim.AdamW):
        steps = 0

        def step(self, closure=None):
            self.steps += 1
            return super().step(closure)

    params, plain_params = parameters(), parameters()
    opt, plain = Counting(params, lr=0.1), gx.optim.AdamW(plain_params, lr=0.1)
    run(opt, params, range(3))
    run(plain, plain_params, range(3))
    assert opt.steps == 3
    assert_equal(params, plain_params)
    assert "Optimizer.step#Counting.step" in events(opt)


def test_zero_grad(case):  # 33
    params = parameters()
    opt = case.make(params)
    assert inspect.signature(opt.zero_grad).parameters["set_to_none"].default is True
    set_gradients(params, 0)
    opt.zero_grad()
    assert all(p.grad is None for p in params)
    set_gradients(params, 0)
    grads = [p.grad for p in params]
    params[1].grad = (params[1] * params[1]).detach() * torch.ones(5, requires_grad=True)
    assert params[1].grad.grad_fn is not None
    opt.zero_grad(set_to_none=False)
    assert all(not p.grad.any() and p.grad.grad_fn is None for p in params)
    assert all(p.grad is g for p, g in zip(params, grads, strict=True) if p is not params[1])


@pytest.mark.parametrize("flag", [None, True, False])
def test_foreach_does_not_change_numbers(case, flag):
    mine, theirs = parameters(), parameters()
    opt, plain = case.make(mine, foreach=flag), case.make(theirs)
    run(opt, mine, range(3))
    run(plain, theirs, range(3))
    assert_equal(mine, theirs)
    set_gradients(mine, 0)
    opt.zero_grad(set_to_none=False)
    assert not any(p.grad.any() for p in mine)
