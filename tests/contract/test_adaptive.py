"""Classes of recipes with estimates: they train, and are their chains."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gradtx as gx


@pytest.mark.parametrize(
    ("cls", "recipe", "options"),
    [
        (gx.optim.ACProp, gx.acprop, {"lr": 0.1}),
        (gx.optim.COCOB, gx.cocob, {}),
        (gx.optim.DAdaptAdamW, gx.dadapt_adamw, {"d0": 1e-3}),
        (gx.optim.DoG, gx.dog, {"init_step": ("heuristic", 1e-3)}),
        (gx.optim.Fromage, gx.fromage, {"lr": 0.1}),
        (gx.optim.MADGRAD, gx.madgrad, {"lr": 0.1}),
        (gx.optim.OptimisticAdam, gx.optimistic_adam, {"lr": 0.1}),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_the_class_is_its_chain_and_trains(cls: Any, recipe: Any, options: Any) -> None:
    start = torch.tensor([3.0, -2.0, 0.5])
    p, w, tx = torch.nn.Parameter(start.clone()), start, recipe(**options)
    opt, state = cls([p], **options), tx.init(start)
    for _ in range(60):
        p.grad = 2 * (p.detach() - 1)
        opt.step()
        updates, state = tx.update(2 * (w - 1), state, w)
        w = gx.apply_updates(w, updates)
    torch.testing.assert_close(p.detach(), w, rtol=1e-4, atol=1e-5)
    assert (w - 1).norm() < (start - 1).norm()
