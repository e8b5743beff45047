"""A module trained inside a block: what an outer loss learns, against a loop by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gradtx as gx

X = torch.linspace(-1, 1, 6).reshape(6, 1)


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.BatchNorm1d(4), nn.Linear(4, 1))


def test_meta_gradients_are_those_of_a_loop_by_hand() -> None:
    model, lr = module(), torch.tensor(0.1, requires_grad=True)
    before = [b.clone() for b in model.buffers()]
    with gx.meta.inner_loop(model, gx.sgd(lr, 0.9)) as (fmodel, opt):
        for _ in range(3):
            opt.step((fmodel(X) - X.sin()).square().mean())
        outer = (fmodel(X) - X.cos()).square().mean()
    got = torch.autograd.grad(outer, [lr, *model.parameters()])

    params: Any = dict(model.named_parameters())
    buffers = {k: b.clone() for k, b in model.named_buffers()}
    trace = {k: torch.zeros_like(p) for k, p in params.items()}

    def out() -> Any:
        return torch.func.functional_call(model, (params, buffers), (X,))

    for _ in range(3):
        loss = (out() - X.sin()).square().mean()
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        trace = {k: 0.9 * trace[k] + g for k, g in zip(params, grads, strict=True)}
        params = {k: p - lr * trace[k] for k, p in params.items()}
    want = torch.autograd.grad((out() - X.cos()).square().mean(), [lr, *model.parameters()])
    torch.testing.assert_close(got, want)
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


def test_history_can_be_cut_and_frozen_parameters_stay() -> None:
    model = module()
    model[0].weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    with torch.no_grad(), gx.meta.inner_loop(model, gx.adam(0.1)) as (fmodel, opt):
        opt.step(fmodel(X).square().mean())
        opt.detach()
        opt.step(fmodel(X).square().mean())
        assert fmodel.params["0.weight"] is not None
        outer = fmodel(X).square().mean()
    assert torch.equal(fmodel.params["0.weight"], model[0].weight)  # type: ignore[union-attr, arg-type]
    grads = torch.autograd.grad(
        outer, [p for p in model.parameters() if p.requires_grad], allow_unused=True
    )
    assert all(g is None for g in grads)


def test_what_is_wrong_is_said() -> None:
    model = module()
    with (
        pytest.raises(TypeError, match="model must be a module"),
        gx.meta.inner_loop(3, gx.sgd(0.1)),
    ):  # type: ignore[arg-type]
        pass
    with (
        pytest.raises(TypeError, match="inner_loop: expected a GradientTransformation, got an int"),
        gx.meta.inner_loop(model, 3),
    ):  # type: ignore[arg-type]
        pass
    wrong = pytest.raises(RuntimeError, match="does not depend on the model")
    with gx.meta.inner_loop(model, gx.sgd(0.1)) as (_, opt), wrong:
        opt.step(torch.tensor(1.0))
