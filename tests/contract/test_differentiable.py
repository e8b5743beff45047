"""Gradients through a step (contract 30)."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx

from .cases import BY_NAME

SMOOTH = ["AdamW", "SGD", "multi_steps", "apply_if_finite", "scheduled_momentum"]


def leaf(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("wrt", ["params", "gradients", "lr"])
def test_gradcheck(name, wrt):
    def after_two_steps(p: torch.Tensor, g1: torch.Tensor, g2: torch.Tensor, lr: torch.Tensor):
        p = p.clone()  # a non-leaf parameter, as in meta-learning
        opt = BY_NAME[name].make([p], lr=lr, differentiable=True)
        for g in (g1, g2):
            p.grad = g
            opt.step()
        return p

    lr = torch.tensor(0.1, dtype=torch.float64)
    args = [leaf(0), leaf(1), leaf(2), lr]
    chosen = {"params": [0], "gradients": [1, 2], "lr": [3]}[wrt]
    args = [a.detach().requires_grad_(i in chosen) for i, a in enumerate(args)]
    assert torch.autograd.gradcheck(after_two_steps, args)


def test_no_graph_without_the_flag(case):
    p = torch.nn.Parameter(torch.ones(2))
    g = torch.ones(2, requires_grad=True)
    opt = case.make([p], lr=torch.tensor(0.1, requires_grad=True))
    p.grad = g * 2
    opt.step()
    assert p.grad_fn is None
    assert p.is_leaf


def test_the_grad_mode_is_restored():
    p = torch.ones(2, requires_grad=True).clone()
    opt = gx.optim.AdamW([p], lr=0.1, differentiable=True)
    p.grad = torch.ones(2)
    with torch.no_grad():
        opt.step()
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert p.grad_fn is not None


def test_meta_gradient_of_the_learning_rate_points_downhill():
    lr = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    p = torch.full((2,), 3.0, dtype=torch.float64, requires_grad=True).clone()
    opt = gx.optim.SGD([p], lr=lr, differentiable=True)
    p.grad = 2 * p.detach()
    opt.step()
    (p * p).sum().backward()
    assert lr.grad.item() == pytest.approx(2 * 2 * (3 - 0.01 * 6) * -6)
