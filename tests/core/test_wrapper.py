"""A transform around another, written by a user: what it declares counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

import gradtx as gx


@dataclass(frozen=True)
class damped(gx.Wrapper):
    factor: gx.Hyper = gx.dynamic(0.5, within="[0, 1]")

    def init(self, params: Any) -> Any:
        return self.transform.init(params)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        new, state = self.update_transform(updates, state, params, extra)
        return gx.tree.map(lambda u, h: h.factor * u, new, self.values(updates, extra)), state


PARAMS = {"w": torch.ones(2), "b": torch.ones(1)}


def test_interval() -> None:
    with pytest.raises(ValueError, match=r"damped: factor must be in \[0, 1\], got 7"):
        damped(gx.sgd(0.1), factor=7)


def test_overrides() -> None:
    tx = gx.chain(damped(gx.scale(1.0)), gx.scale(1.0))

    def out(hyper: Any) -> Any:
        updates, _ = tx.update(PARAMS, tx.init(PARAMS), hyper=hyper)
        return {name: u[0].item() for name, u in updates.items()}

    assert out(None) == {"w": 0.5, "b": 0.5}
    assert out({"damped.factor": 0.25}) == {"w": 0.25, "b": 0.25}
    assert out({"factor": {"w": 0.25, "b": None}}) == {"w": 0.25, "b": 0.5}
    with pytest.raises(ValueError, match="damped: factor must be in"):
        out({"factor": 2.0})
    with pytest.raises(ValueError, match=r"'damped\.facto'.*did you mean 'damped\.factor'"):
        out({"damped.facto": 0.25})


def test_group_option() -> None:
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = [{"params": [a]}, {"params": [b], "factor": 0.25}]
    opt = gx.optim.from_transform(damped(gx.sgd(1.0)), groups)
    a.grad, b.grad = torch.ones(1), torch.ones(1)
    opt.step()
    assert (a.item(), b.item()) == (-0.5, -0.25)


def test_other_floats_are_not_compiled_anew() -> None:
    tx = gx.adamw(1e-3)
    state = tx.init(PARAMS)
    torch._dynamo.reset()
    counters.clear()
    step = torch.compile(
        lambda g, s, h: tx.update(g, s, PARAMS, hyper=h), fullgraph=True, backend="eager"
    )
    for i in range(1, 5):
        step(PARAMS, state, {"lr": 1e-3 * i, "b1": 0.1 * i, "weight_decay": 0.1 * i})
    assert counters["stats"]["unique_graphs"] <= 2
