"""snapshot and monitor: what ends up in the state."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx


def is_large(updates):
    return gx.tree.global_norm(updates) > 2


def alignment(updates, params):
    return gx.tree.vdot(updates, params)


def params():
    return {"w": torch.arange(3.0), "s": torch.tensor(2.0)}


def test_a_snapshot_sees_the_updates_at_its_place():
    tx = gx.chain(gx.scale(2.0), gx.snapshot("doubled"), gx.scale(-1.0))
    updates, state = tx.update(params(), tx.init(params()))
    torch.testing.assert_close(
        gx.tree.get(state, "doubled"), gx.tree.map(lambda p: 2 * p, params())
    )
    torch.testing.assert_close(updates, gx.tree.map(lambda p: -2 * p, params()))


def test_a_snapshot_is_a_copy():
    tx, grads = gx.snapshot("raw"), params()
    _, state = tx.update(grads, tx.init(grads))
    grads["w"].zero_()
    assert state["raw"]["w"].tolist() == [0.0, 1.0, 2.0]


def test_a_snapshot_keeps_the_last_copy_of_a_leaf_without_update():
    tx = gx.snapshot("raw")
    _, state = tx.update(params(), tx.init(params()))
    _, state = tx.update({"w": None, "s": torch.tensor(7.0)}, state)
    assert state["raw"]["w"].tolist() == [0.0, 1.0, 2.0]
    assert state["raw"]["s"] == 7


def test_low_precision_updates_pass_unchanged_and_are_kept_in_float32():
    tx = gx.chain(gx.snapshot("raw"), gx.monitor({"norm": gx.tree.global_norm}))
    grads = gx.tree.cast(params(), torch.bfloat16)
    updates, state = tx.update(grads, tx.init(grads))
    assert updates["w"] is grads["w"]
    assert gx.tree.get(state, "raw")["w"].dtype == torch.float32
    assert gx.tree.get(state, "norm") == 3


def test_metrics_of_updates_and_parameters():
    tx = gx.monitor(
        {"norm": gx.tree.global_norm, "large": is_large, "dot": alignment, "one": lambda u: 1.0}
    )
    state = tx.init(params())
    assert {n: x.item() for n, x in state.items()} == dict.fromkeys(state, 0)
    for factor in (1.0, 2.0):
        grads = gx.tree.map(lambda p, f=factor: p * f, params())
        _, state = tx.update(grads, state, params())
        assert state["norm"] == 3 * factor
        assert state["dot"] == 9 * factor
        assert state["large"].dtype == torch.bool
        assert state["large"]
        assert state["one"] == 1


def test_an_ensemble_has_a_metric_for_every_member():
    tx = gx.monitor({"norm": gx.tree.global_norm})
    grads = {"w": torch.tensor([[3.0, 4.0], [0.0, 1.0]])}
    state = torch.vmap(tx.init)(grads)
    _, state = torch.vmap(tx.update)(grads, state)
    assert state["norm"].tolist() == [5.0, 1.0]


@pytest.mark.parametrize(
    ("measures", "error", "message"),
    [
        ({"": is_large}, ValueError, "monitor: a name must be a non-empty string, got ''"),
        ({"n": 3}, TypeError, "monitor: metric 'n' must be a function of the updates, got int"),
    ],
)
def test_bad_measures(measures, error, message):
    with pytest.raises(error, match=message):
        gx.monitor(measures)


def test_errors_of_a_measure_name_it():
    tx = gx.monitor({"dot": alignment})
    state = tx.init(params())
    with pytest.raises(ValueError, match="monitor: metric 'dot' needs the parameters"):
        tx.update(params(), state)
    with pytest.raises(TypeError, match="monitor: metric 'x' must return a tensor or a number"):
        gx.monitor({"x": lambda u: "large"}).init(params())
    with pytest.raises(ValueError, match="snapshot: a name must be a non-empty string"):
        gx.snapshot("")
