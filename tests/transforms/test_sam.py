"""Sharpness-aware minimization and Mechanic, beyond their recorded numbers."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx

ADVERSARY = gx.chain(gx.scale(-1.0), gx.normalize_by_update_norm(0.5, 1e-12))


def slope(w: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"w": 4 * w["w"] ** 3, "n": None}  # type: ignore[dict-item]


def test_both_modes_make_the_same_steps() -> None:
    w = v = {"w": torch.tensor([1.0, -2.0], dtype=torch.float64), "n": None}
    opaque = gx.sam(gx.adam(0.1), ADVERSARY, 3, opaque_mode=True)
    shown = gx.sam(gx.adam(0.1), ADVERSARY, 3)
    state, other = opaque.init(w), shown.init(v)
    for _ in range(4):
        updates, state = opaque.update(slope(w), state, w, grad_fn=lambda at, i: slope(at))
        w = gx.apply_updates(w, updates)
        for _ in range(3):
            updates, other = shown.update(slope(v), other, v)
            v = gx.apply_updates(v, updates)
        torch.testing.assert_close(w["w"], v["w"])


def test_a_period_of_one_is_the_optimizer() -> None:
    tx, plain, w = gx.sam(gx.sgd(0.1), ADVERSARY, 1), gx.sgd(0.1), {"w": torch.ones(2)}
    state, v = tx.init(w), {"w": torch.ones(2)}
    for _ in range(3):
        updates, state = tx.update(w, state, w)
        w = gx.apply_updates(w, updates)
        v = gx.apply_updates(v, plain.update(v, plain.init(v), v)[0])
        torch.testing.assert_close(w, v)


def test_says_what_is_missing() -> None:
    w = {"w": torch.ones(2)}
    tx = gx.sam(gx.sgd(0.1), ADVERSARY, opaque_mode=True)
    with pytest.raises(ValueError, match="sam: needs grad_fn"):
        tx.update(w, tx.init(w), w)
    with pytest.raises(ValueError, match="sam: needs the parameters"):
        tx.update(w, tx.init(w))
    with pytest.raises(ValueError, match="sync_period must be an integer >= 1, got 0"):
        gx.sam(gx.sgd(0.1), ADVERSARY, 0)


def test_mechanic_finds_a_rate_over_six_decades() -> None:
    for height in (1e-3, 1e3):
        tx = gx.mechanize(gx.adam(1.0), weight_decay=0.0)
        w = {"w": torch.tensor([height], dtype=torch.float64), "n": None}
        state = tx.init(w)
        for _ in range(400):
            updates, state = tx.update({"w": 2 * w["w"], "n": None}, state, w)
            w = gx.apply_updates(w, updates)
        assert abs(w["w"].item()) < 0.5 * height


def test_a_leaf_without_a_gradient_at_first_steps_from_where_it_is() -> None:
    tx, p, one = gx.sam(gx.sgd(0.1), ADVERSARY), {"a": torch.ones(1), "b": torch.ones(1)}, [1.0]
    state = tx.init(p)
    for _ in range(3):
        for b in (None, torch.tensor(one)):
            updates, state = tx.update({"a": torch.tensor(one), "b": b}, state, p)
            p = gx.apply_updates(p, updates)
    assert [x.item() for x in p.values()] == pytest.approx([0.7, 0.7])
