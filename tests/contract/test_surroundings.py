"""A step computes the same numbers whatever a program sets for its model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.testing.surroundings import surroundings
from tests.battery.helpers import random_tree

# Elementwise; codes; a subspace by every kind of product; one kernel for the whole chain.
CLASSES = ("AdamW", "AdamW8bit", "DCTAdamW", "Dion", "GaLoreAdamW8bit", "LDAdamW", "MicroAdam")
SHAPES = {"b": (33,), "w": (24, 40)}


def train(name: str, grads: list[Any], **options: Any) -> list[torch.Tensor]:
    params = [torch.nn.Parameter(p) for p in random_tree(0, SHAPES).values()]
    with options.pop("around")():
        opt = getattr(gx.optim, name)(params, lr=1e-2, **options)
        for step in grads:
            for p, g in zip(params, step.values(), strict=True):
                p.grad = g
            opt.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("name", CLASSES)
def test_surroundings(name: str, fused: bool | None) -> None:
    grads = [random_tree(step + 1, SHAPES) for step in range(3)]
    want = train(name, grads, fused=fused, around=torch.enable_grad)
    got = train(name, grads, fused=fused, around=surroundings)
    assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("name", ["AdamW", "GaLoreAdamW8bit", "MicroAdam"])
def test_steps_in_inference_mode(name: str, fused: bool | None) -> None:
    """The same numbers, and the state that they leave serves steps outside."""
    grads = [random_tree(step + 1, SHAPES) for step in range(4)]
    results = []
    for mode in (False, True):
        params = [torch.nn.Parameter(p) for p in random_tree(0, SHAPES).values()]
        opt = getattr(gx.optim, name)(params, lr=1e-2, fused=fused, capturable=True)
        for i, step in enumerate(grads):
            with torch.inference_mode(mode and i < 2):
                for p, g in zip(params, step.values(), strict=True):
                    p.grad = g.clone()
                opt.step()
        results.append([p.detach() for p in params])
    assert all(map(torch.equal, *results))


def test_closure_runs_inside_autocast() -> None:
    """It is the model's: only the step itself is outside."""
    p = torch.nn.Parameter(torch.ones(2, 2))
    opt = gx.optim.SGD([p], lr=0.1)
    seen = []

    def closure() -> torch.Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        p.grad = torch.ones(2, 2)
        return p.sum()

    with torch.autocast("cpu"):
        opt.step(closure)
        assert torch.is_autocast_enabled("cpu")
    assert seen == [True]
