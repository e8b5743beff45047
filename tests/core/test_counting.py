"""One count of steps for all leaves."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx

G = torch.tensor([3.0, -1.0])


def test_bias_corrections_follow_the_run():
    """What averages hold is as if the leaf had not been there, their correction is not."""
    together, alone = gx.count_together(gx.scale_by_adam(0.5, 0.9)), gx.scale_by_adam(0.5, 0.9)
    state, own = together.init({"a": G, "b": G}), alone.init({"b": G})
    gaps = [True, False, False, True, True]
    for t, there in enumerate(gaps, start=1):
        grads = {"a": t * G, "b": t * G if there else None}
        updates, state = together.update(grads, state)
        if there:
            _, own = alone.update({"b": t * G}, own)
        assert (updates["b"] is None) != there
    assert torch.equal(state.inner_state["b"].mu, own["b"].mu)
    assert int(state.inner_state["b"].step) == len(gaps)
    want = own["b"].mu / (1 - 0.5**5) / ((own["b"].nu / (1 - 0.9**5)).sqrt() + 1e-8)
    torch.testing.assert_close(updates["b"], want)


def test_a_leaf_that_comes_late():
    tx = gx.count_together(gx.grafted(gx.scale_by_sign(), gx.identity(), start=3))
    state = tx.init({"a": G, "b": G})
    for _ in range(2):
        updates, state = tx.update({"a": G, "b": None}, state)
        assert torch.equal(updates["a"], G)
    updates, state = tx.update({"a": G, "b": G}, state)
    assert torch.equal(updates["a"], updates["b"])
    assert not torch.equal(updates["b"], G)


@pytest.mark.parametrize("make", [gx.optim.Shampoo, gx.optim.DASH])
def test_optimizers_count_alike(make):
    """Refreshes and corrections of a group, whatever leaves have gradients."""
    params = {name: torch.nn.Parameter(torch.eye(3)) for name in "ab"}
    every = {"Shampoo": "precondition_frequency", "DASH": "inv_root_freq"}[make.__name__]
    opt = make(params.items(), lr=0.1, counts="group", **{every: 4})
    for t in range(1, 9):
        for name, p in params.items():
            p.grad = torch.randn(3, 3, generator=torch.Generator().manual_seed(t))
            if name == "b" and t in (2, 3, 7):
                p.grad = None
        opt.step()
    steps = {
        int(x)
        for p in params.values()
        for path, x in entries(opt.state[p])
        if path.endswith("step") and x.ndim == 0
    }
    assert steps == {8}
    other = make(params.items(), lr=0.1, counts="group", **{every: 4})
    other.load_state_dict(opt.state_dict())
    assert {p: opt.state[p]["count_together"]["step"] for p in params.values()} == {
        p: other.state[p]["count_together"]["step"] for p in params.values()
    }


def entries(nested, path=""):
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from entries(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}", value
