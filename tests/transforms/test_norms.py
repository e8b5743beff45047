"""Norm-based transforms where numbers alone do not tell: zeros, units, huge and missing values."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx

NORMS = [
    gx.scale_by_trust_ratio(),
    gx.scale_by_trust_ratio(min_norm=0.1, trust_coefficient=0.5, eps=0.1),
    gx.scale_by_param_block_norm(),
    gx.scale_by_param_block_rms(),
    gx.normalize_by_update_norm(),
    gx.clip_by_block_rms(0.5),
    gx.clip_by_global_norm(0.5),
    gx.adaptive_grad_clip(0.1),
]


@pytest.mark.parametrize("tx", NORMS, ids=repr)
@pytest.mark.parametrize("zero", ["updates", "params", "both"])
def test_derivatives_are_finite_at_zero(tx, zero):
    def tree(is_zero):
        values = torch.linspace(-1, 1, 6, dtype=torch.float64) * (0 if is_zero else 1)
        return {"w": values.reshape(2, 3), "v": values, "s": values[0]}

    updates, params = tree(zero != "params"), tree(zero != "updates")

    def loss(updates, params):
        out, _ = tx.update(updates, tx.init(params), params)
        return sum(x.square().sum() + x.sum() for x in out.values())

    for grads in torch.func.grad(loss, argnums=(0, 1))(updates, params):
        assert all(torch.isfinite(g).all() for g in grads.values())


def test_no_update_is_lost_where_a_norm_is_zero():
    grads = {"w": torch.tensor([3.0, 4.0])}
    assert torch.equal(
        gx.scale_by_trust_ratio().update(grads, (), {"w": torch.zeros(2)})[0]["w"], grads["w"]
    )


def test_adaptive_grad_clip_treats_rows_as_units():
    params = {"linear": torch.ones(4, 3), "conv": torch.ones(4, 3, 2, 2), "bias": torch.ones(9)}
    grads = gx.tree.map(lambda p: 100 * p, params)
    grads["linear"] = grads["linear"] * torch.tensor([[1.0], [1e-3], [1.0], [1e-3]])
    out, _ = gx.adaptive_grad_clip(0.5).update(grads, (), params)
    size = 0.5 * 3**0.5
    want = torch.tensor([size, 0.1 * 3**0.5, size, 0.1 * 3**0.5])
    torch.testing.assert_close(out["linear"].norm(dim=1), want)
    torch.testing.assert_close(out["conv"].flatten(1).norm(dim=1), torch.full((4,), 0.5 * 12**0.5))
    torch.testing.assert_close(out["bias"].norm(), torch.tensor(1.5))


def test_centralize_makes_every_output_unit_mean_free():
    grads = {"conv": torch.rand(4, 3, 2, 2), "bias": torch.rand(4)}
    out, _ = gx.centralize().update(grads, ())
    assert out["conv"].flatten(1).sum(1).abs().max() < 1e-5
    assert torch.equal(out["bias"], grads["bias"])


def test_found_nan_tells_about_the_last_update_of_each_leaf():
    tx = gx.zero_nans()
    params = {"a": torch.zeros(2), "b": torch.zeros(())}
    state = tx.init(params)
    assert gx.tree.get_all(state, "found_nan") == {
        "a": torch.tensor(False),
        "b": torch.tensor(False),
    }
    bad = {"a": torch.tensor([torch.nan, torch.inf]), "b": torch.tensor(1.0)}
    updates, state = tx.update(bad, state)
    assert updates["a"].tolist() == [0.0, torch.inf]
    assert [s.found_nan.item() for s in state.values()] == [True, False]
    _, state = tx.update(params, state)
    assert not state["a"].found_nan


def test_low_precision_parameters_stay_nonnegative():
    params = {"w": torch.rand(1000).bfloat16()}
    updates, _ = gx.keep_params_nonnegative().update({"w": torch.randn(1000)}, (), params)
    assert (gx.apply_updates(params, updates)["w"] >= 0).all()


@pytest.mark.parametrize("axis", [None, 0, (0, 1)])
def test_units_one_by_one_are_what_adaptive_clipping_does(axis):
    generator = torch.Generator().manual_seed(0)
    u, p = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    p[0] = 0
    norm = gx.unitwise_norm(u, axis)
    assert norm.shape == u.shape
    dims = (1,) if axis is None else axis
    torch.testing.assert_close(norm, u.norm(dim=dims, keepdim=True).expand(4, 3))
    most = 0.3 * gx.unitwise_norm(p, axis).clamp(min=1e-3)
    want = gx.adaptive_grad_clip(0.3, axis=axis).update(u, (), p)[0]
    torch.testing.assert_close(gx.unitwise_clip(norm, most, u), want)
    assert torch.equal(torch.func.grad(lambda x: gx.unitwise_norm(x).sum())(0 * u), 0 * u)
