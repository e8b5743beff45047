"""Optimizers that run inside backward (contract 31)."""

from __future__ import annotations

import warnings

import pytest
import torch

import gradtx as gx

from .cases import POINTWISE, assert_equal


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def loss_of(model: torch.nn.Module, t: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(t)
    return model(torch.randn(5, 3, generator=generator)).square().mean()


@pytest.mark.parametrize("case", POINTWISE, ids=lambda c: c.name)
def test_one_optimizer_per_parameter_equals_one_over_all(case):
    hooked, plain = network(), network()
    by_param = {p: case.make([p]) for p in hooked.parameters()}

    def update(p: torch.Tensor) -> None:
        by_param[p].step()
        by_param[p].zero_grad()

    for p in hooked.parameters():
        p.register_post_accumulate_grad_hook(update)
    opt = case.make(plain.parameters())
    for t in range(4):
        loss_of(hooked, t).backward()
        assert all(p.grad is None for p in hooked.parameters())
        opt.zero_grad()
        loss_of(plain, t).backward()
        opt.step()
    assert_equal(hooked.parameters(), plain.parameters())


@pytest.mark.parametrize("cls", ["AdamW", "SGD", "Lion", "Adafactor"])
def test_apply_optimizer_in_backward(cls):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.distributed.optim uses torch.jit.script
        from torch.distributed.optim import _apply_optimizer_in_backward
    cls = getattr(gx.optim, cls)
    hooked, plain = network(), network()
    _apply_optimizer_in_backward(cls, hooked.parameters(), {"lr": 0.05})
    opt = cls(plain.parameters(), lr=0.05)
    for t in range(3):
        loss_of(hooked, t).backward()
        assert all(p.grad is None for p in hooked.parameters())
        opt.zero_grad()
        loss_of(plain, t).backward()
        opt.step()
    assert_equal(hooked.parameters(), plain.parameters())
