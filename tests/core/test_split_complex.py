"""Complex leaves as pairs of real ones."""

from __future__ import annotations

import torch

import gradtx as gx


def test_a_complex_leaf_is_trained_like_its_two_parts() -> None:
    tx = gx.chain(gx.clip_by_leaf_norm(0.5), gx.adamw(0.1))
    whole = gx.split_real_and_imaginary(tx)
    z, w = torch.tensor([1 - 2j, 3 + 1j]), torch.tensor([0.5])
    params = {"z": z, "w": w, "n": None}
    parts = {"re": z.real.clone(), "im": z.imag.clone(), "w": w}
    state, apart = whole.init(params), tx.init(parts)
    for t in range(1, 4):
        g = t * torch.tensor([1 + 1j, -2 + 0.5j])
        updates, state = whole.update({"z": g, "w": w, "n": None}, state, params)
        others, apart = tx.update({"re": g.real, "im": g.imag, "w": w}, apart, parts)
        torch.testing.assert_close(updates["z"], torch.complex(others["re"], others["im"]))
        torch.testing.assert_close(updates["w"], others["w"])
        params = gx.apply_updates(params, updates)
        parts = gx.apply_updates(parts, others)
    assert params["z"].dtype == torch.complex64


def test_extra_trees_are_split_too() -> None:
    tx = gx.split_real_and_imaginary(gx.scale_by_adahessian())
    z = {"z": torch.tensor([1 - 2j])}
    updates, _ = tx.update(z, tx.init(z), z, hessian={"z": torch.tensor([4 + 9j])})
    assert torch.isfinite(torch.view_as_real(updates["z"])).all()
