"""The torch optimizer classes: they step, save and resume, and groups may differ."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.codecs import nbytes

CLASSES: dict[str, dict[str, Any]] = {
    "LDAdamW": {"rank": 2},
    "AdamWSN": {},
    "AdamSNSM": {"rank": 2, "update_proj_gap": 2},
    "AdaGradSN": {},
    "RMSPropSN": {},
    "SNSM": {"momentum": "sm", "rank": 2, "update_proj_gap": 3, "second_moment": "sn", "subset": 4},
    "GaLoreAdamW": {"rank": 2, "update_proj_gap": 2},
    "GaLoreAdamW8bit": {"rank": 2, "update_proj_gap": 2, "min_size": 0},
    "GaLoreAdafactor": {"rank": 2, "update_proj_gap": 2, "b1": 0.9},
    "APOLLO": {"rank": 2, "update_proj_gap": 2},
    "APOLLOMini": {"update_proj_gap": 2},
}


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def train(net: torch.nn.Module, opt: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for t in steps:
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(t % 3))
        loss = (net(x) - x[:, :3].sin()).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", CLASSES)
def test_it_learns(name: str) -> None:
    net = model()
    opt = getattr(gx.optim, name)(net.parameters(), lr=0.02, **CLASSES[name])
    losses = train(net, opt, range(60))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", CLASSES)
def test_it_resumes(name: str) -> None:
    whole, parts = model(), model()
    make = getattr(gx.optim, name)
    opt = make(whole.parameters(), lr=0.02, **CLASSES[name])
    train(whole, opt, range(5))
    first = make(parts.parameters(), lr=0.02, **CLASSES[name])
    train(parts, first, range(3))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make(parts.parameters(), lr=0.02, **CLASSES[name])
    second.load_state_dict(torch.load(file, weights_only=True))
    train(parts, second, range(3, 5))
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_class_is_its_recipe() -> None:
    recipes = {
        "LDAdamW": gx.ldadamw(0.02, rank=2),
        "GaLoreAdamW": gx.galore_adamw(0.02, rank=2, update_proj_gap=2),
        "AdaGradSN": gx.adagrad_sn(0.02),
        "APOLLO": gx.apollo(0.02, rank=2, update_proj_gap=2),
        "GaLoreAdafactor": gx.galore_adafactor(
            0.02, relative_step=False, rank=2, update_proj_gap=2, b1=0.9
        ),
    }
    for name, tx in recipes.items():
        a, b = model(), model()
        train(a, getattr(gx.optim, name)(a.parameters(), lr=0.02, **CLASSES[name]), range(4))
        train(b, gx.optim.from_transform(tx, b.parameters(), lr=0.02), range(4))
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_groups_with_and_without_a_rank() -> None:
    net = model()
    groups = [{"params": net[0].parameters()}, {"params": net[2].parameters(), "rank": None}]
    opt = gx.optim.GaLoreAdamW(groups, lr=0.02, rank=2)
    train(net, opt, range(2))
    shapes = [gx.tree.get(opt.state[layer.weight], "mu").shape for layer in (net[0], net[2])]
    assert shapes == [(8, 2), (3, 8)]


def test_options_reach_what_they_name() -> None:
    """Scale and eps of one member are not those of another."""
    p = torch.nn.Parameter(torch.ones(4, 3))
    for name, options in (("APOLLO", {"rank": 2}), ("GaLoreAdamW", {"rank": 2})):
        steps = []
        for scale in (1.0, 4.0):
            q = torch.nn.Parameter(p.detach().clone())
            q.grad = torch.arange(12.0).reshape(4, 3)
            getattr(gx.optim, name)([q], lr=0.1, scale=scale, eps=1e-3, **options).step()
            steps.append((q - p).detach())
        factor = 2.0 if name == "APOLLO" else 4.0
        torch.testing.assert_close(steps[1], factor * steps[0], rtol=1e-4, atol=1e-5)


def test_state_is_small() -> None:
    params = {"w": torch.zeros(512, 512)}
    adam = nbytes(gx.adamw().init(params))
    for tx, share in (
        (gx.galore_adamw(rank=16), 0.05),
        (gx.galore_adamw8bit(rank=16), 0.025),
        (gx.ldadamw(rank=16, error_feedback=False), 0.05),
        (gx.apollo(rank=16), 0.035),
        (gx.apollo_mini(), 0.0025),
        (gx.adam_snsm(rank=16), 0.035),
        (gx.adam_snsm(rank=16, proj_type="uniform"), 0.02),
        (gx.rmsprop_sn(), 0.0011),
    ):
        assert nbytes(tx.init(params)) < share * adam, tx
