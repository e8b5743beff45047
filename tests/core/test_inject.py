"""Hyperparameters in the state."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gradtx as gx

W = {"w": torch.ones(2)}


def test_numbers_in_the_state_may_be_set_saved_and_mapped() -> None:
    tx = gx.inject_hyperparams(gx.sgd(momentum=0.5), {"lr": 0.5, "decay": 0.0})
    state = tx.init(W)
    updates, state = tx.update(W, state, W)
    assert updates["w"].tolist() == [-0.5, -0.5]
    state = state._replace(hyperparams={**state.hyperparams, "lr": torch.tensor(0.25)})
    updates, state = tx.update(W, gx.tree.from_dict(state, gx.tree.to_dict(state)), W)
    assert updates["w"].tolist() == [-0.25, -0.25]

    def step(lr: torch.Tensor) -> Any:
        return tx.update(W, state._replace(hyperparams={**state.hyperparams, "lr": lr}), W)[0]

    mapped = torch.func.vmap(step)(torch.tensor([1.0, 2.0]))
    assert mapped["w"][:, 0].tolist() == [-1.0, -2.0]
    slope = torch.func.grad(lambda lr: step(lr)["w"].sum())(torch.tensor(1.0))
    assert slope == -2.0


def test_what_is_kept_stands_for_overrides_and_group_options() -> None:
    tx = gx.inject_hyperparams(gx.sgd(), {"lr": 0.5})
    for hyper in ({"lr": 9.0}, {"chain.scale_by_learning_rate.lr": 9.0}):
        assert tx.update(W, tx.init(W), W, hyper=hyper)[0]["w"][0] == -0.5
    p = torch.nn.Parameter(torch.zeros(2))
    opt = gx.optim.from_transform(tx, [p])
    p.grad = torch.ones(2)
    opt.step()
    assert p.tolist() == [-0.5, -0.5]


def test_schedules_count_calls() -> None:
    tx = gx.inject_hyperparams(gx.sgd(), {"lr": gx.schedules.linear(1.0, 0.0, 2)})
    state, found = tx.init(W), []
    for _ in range(3):
        updates, state = tx.update(W, state, W)
        found.append(-updates["w"][0].item())
    assert found == [1.0, 0.5, 0.0]


def test_names_and_values_are_checked() -> None:
    with pytest.raises(ValueError, match=r"inject_hyperparams.*'lrr'.*lr"):
        gx.inject_hyperparams(gx.sgd(), {"lrr": 0.5})
    with pytest.raises(TypeError, match="lr must be a number, a 0-d tensor or a schedule"):
        gx.inject_hyperparams(gx.sgd(), {"lr": "fast"})  # type: ignore[dict-item]
