"""mars: the corrected gradient, its clipping, and the recipe."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx


def gradients(steps=5, size=1.0):
    generator = torch.Generator().manual_seed(0)
    return [
        {"w": size * torch.randn(4, 3, generator=generator, dtype=torch.float64)}
        for _ in range(steps)
    ]


def test_is_the_formula():
    tx = gx.mars(0.05, 0.9, max_norm=1e9)
    grads = gradients()
    state = tx.init(grads[0])
    for t, g in enumerate(grads):
        updates, state = tx.update(g, state)
        change = g["w"] - grads[t - 1]["w"] if t else 0.0
        torch.testing.assert_close(updates["w"], g["w"] + 0.05 * 9.0 * change)
        assert torch.equal(state["w"].previous, g["w"])


def test_every_leaf_is_clipped_by_itself():
    tx = gx.mars(gamma=0.0, max_norm=2.0)
    grads = {"small": torch.full((4,), 0.5), "large": torch.full((4,), 50.0)}
    updates, _ = tx.update(grads, tx.init(grads))
    assert torch.equal(updates["small"], grads["small"])
    torch.testing.assert_close(updates["large"], torch.ones(4))


def test_the_previous_gradient_is_the_one_before_clipping():
    tx = gx.mars(0.5, 0.5, max_norm=1.0)
    grads = {"w": torch.full((1,), 8.0)}
    _, state = tx.update(grads, tx.init(grads))
    updates, _ = tx.update({"w": torch.full((1,), 8.5)}, state)
    assert updates["w"].item() == pytest.approx(1.0)
    assert state["w"].previous.item() == 8.0


def test_a_leaf_that_starts_late_has_no_correction_at_first():
    tx = gx.mars(0.5, 0.5, max_norm=100.0)
    params = {"a": torch.zeros(1), "b": torch.zeros(1)}
    _, state = tx.update({"a": torch.ones(1), "b": None}, tx.init(params))
    updates, state = tx.update({"a": torch.full((1,), 2.0), "b": torch.ones(1)}, state)
    assert (updates["a"].item(), updates["b"].item()) == (2.5, 1.0)


def test_without_correction_the_recipe_is_adamw():
    grads = gradients(size=0.01)
    params = gradients(1)[0]
    a = gx.mars_adamw(0.1, 0.9, 0.99, weight_decay=0.1, gamma=0.0)
    b = gx.adamw(0.1, 0.9, 0.99, weight_decay=0.1)
    x, y, sa, sb = params, params, a.init(params), b.init(params)
    for g in grads:
        ua, sa = a.update(g, sa, x)
        ub, sb = b.update(g, sb, y)
        x, y = gx.apply_updates(x, ua), gx.apply_updates(y, ub)
    assert torch.equal(x["w"], y["w"])


def test_b1_reaches_correction_and_moments():
    tx, params = gx.mars_adamw(1.0), {"w": torch.zeros(1)}
    state = tx.init(params)
    _, state = tx.update({"w": torch.full((1,), 0.25)}, state, params, hyper={"b1": 0.5})
    _, state = tx.update({"w": torch.full((1,), 0.5)}, state, params, hyper={"b1": 0.5})
    # 0.5 (0.5 * 0.25) + 0.5 (0.5 + 0.025 * 0.25)
    assert state["scale_by_adam"]["w"].mu.item() == pytest.approx(0.0625 + 0.253125)


def test_the_class_is_the_recipe():
    p = torch.nn.Parameter(torch.ones(3))
    opt = gx.optim.MARSAdamW([p], lr=0.1, betas=(0.8, 0.9), gamma=0.1, max_norm=0.5)
    tx = gx.mars_adamw(0.1, 0.8, 0.9, gamma=0.1, max_norm=0.5)
    params = {"w": torch.ones(3)}
    state = tx.init(params)
    for t in range(4):
        g = torch.randn(3, generator=torch.Generator().manual_seed(t))
        p.grad = g.clone()
        opt.step()
        updates, state = tx.update({"w": g}, state, params)
        params = gx.apply_updates(params, updates)
    torch.testing.assert_close(p.detach(), params["w"])


@pytest.mark.parametrize(("name", "value"), [("gamma", -1.0), ("b1", 1.0), ("max_norm", 0.0)])
def test_bad_values(name, value):
    with pytest.raises(ValueError, match=f"mars: {name} must be in"):
        gx.mars(**{name: value})
