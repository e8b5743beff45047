"""Steps that round as the parameters do."""

from __future__ import annotations

import torch

import gradtx as gx

HALF = torch.bfloat16


def test_every_product_is_rounded_once() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(2000, generator=generator).to(HALF)
    u = torch.randn(2000, generator=generator)
    lr, decay = 0.013, 0.07
    tx = gx.decay_first(gx.chain(gx.round_updates(), gx.scale_by_learning_rate(lr)), lr, decay)
    updates, _ = tx.update(u, tx.init(p), p)
    decayed = (p.float() * (1 - lr * decay)).to(HALF)
    want = (decayed.float() - lr * u.to(HALF).float()).to(HALF)
    assert torch.equal(gx.apply_updates(p, updates), want)
    once = gx.chain(gx.add_decayed_weights(decay), gx.scale_by_learning_rate(lr))
    assert not torch.equal(gx.apply_updates(p, once.update(u, once.init(p), p)[0]), want)


def test_float32_is_the_additive_decay() -> None:
    generator = torch.Generator().manual_seed(1)
    p, u = torch.randn(2, 500, generator=generator)
    tx = gx.decay_first(gx.scale_by_learning_rate(0.1), 0.1, 0.2)
    once = gx.chain(gx.add_decayed_weights(0.2), gx.scale_by_learning_rate(0.1))
    got, want = (gx.apply_updates(p, t.update(u, t.init(p), p)[0]) for t in (tx, once))
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


def test_the_inner_transform_sees_decayed_parameters() -> None:
    seen = []

    def update(updates, state, params):
        seen.append(params)
        return updates, state

    tx = gx.decay_first(gx.transformation(lambda params: (), update), 0.5, 1.0)
    p = {"w": torch.ones(1, dtype=HALF), "missing": torch.ones(1)}
    updates, _ = tx.update({"w": torch.ones(1), "missing": None}, tx.init(p), p)
    assert seen[0]["w"].dtype == HALF
    assert seen[0]["w"].item() == 0.5
    assert updates["missing"] is None
    assert updates["w"].item() == 0.5


def test_other_dtypes_are_left_alone() -> None:
    u = {"f": torch.tensor([1.0001]), "d": torch.tensor([1.0001], dtype=torch.float64)}
    out, _ = gx.round_updates().update(u, (), u)
    assert all(torch.equal(out[k], u[k]) for k in u)
