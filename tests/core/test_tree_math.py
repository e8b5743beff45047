"""Arithmetic of trees: missing leaves, dtypes, and what is refused."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx
from gradtx.core.random import make_key

A = {"x": torch.tensor([1.0, -2.0]), "y": {"z": torch.tensor(4.0)}, "n": None}
B = {"x": torch.tensor([3.0, 0.5]), "y": {"z": torch.tensor(-1.0)}, "n": None}


def test_missing_leaves_stay_missing_and_numbers_are_right() -> None:
    t = gx.tree
    for out, x, z in (
        (t.add(A, B), [4.0, -1.5], 3.0),
        (t.sub(A, B), [-2.0, -2.5], 5.0),
        (t.mul(A, B), [3.0, -1.0], -4.0),
        (t.div(A, B), [1 / 3, -4.0], -4.0),
        (t.scale(2.0, A), [2.0, -4.0], 8.0),
        (t.add_scale(A, torch.tensor(2.0, dtype=torch.float64), B), [7.0, -1.0], 2.0),
        (t.clip(A, -1.0, 3.0), [1.0, -1.0], 3.0),
        (t.full_like(A, 7.0), [7.0, 7.0], 7.0),
        (t.ones_like(A), [1.0, 1.0], 1.0),
        (t.update_moment(A, B, 0.5, 2), [2.0, 2.25], 7.5),
        (t.bias_correction(A, 0.5, 2), [4 / 3, -8 / 3], 16 / 3),
    ):
        assert out["n"] is None
        torch.testing.assert_close(out["x"], torch.tensor(x))
        torch.testing.assert_close(out["y"]["z"], torch.tensor(z))
    assert (t.sum(A), t.max(A), t.min(A), t.size(A)) == (3.0, 4.0, -2.0, 3)
    assert t.norm(A, torch.inf) == 4.0
    assert not t.allclose(A, B)


def test_structures_and_values_are_checked() -> None:
    with pytest.raises(gx.TreeMismatchError):
        gx.tree.add(A, {"x": A["x"]})
    with pytest.raises(ValueError, match=r"tree\.max: the tree has no entries"):
        gx.tree.max({"n": None})
    with pytest.raises(ValueError, match=r"tree\.norm: ord must be 1, 2 or infinity"):
        gx.tree.norm(A, 3)


def test_half_precision_adds_up_in_float32_and_numbers_depend_on_names() -> None:
    half = {"x": torch.full((4097,), 1.0, dtype=torch.bfloat16)}
    assert gx.tree.sum(half) == 4097
    assert gx.tree.scale(0.5, half)["x"].dtype == torch.bfloat16
    one = gx.tree.random_like(make_key(1), A)
    other = gx.tree.random_like(make_key(1), {"w": A["x"], "x": A["x"]})
    assert torch.equal(one["x"], other["x"])
    assert not torch.equal(other["w"], other["x"])


def test_averages_of_parameters() -> None:
    new, old = {"w": torch.ones(2)}, {"w": torch.zeros(2, dtype=torch.bfloat16)}
    mixed = gx.incremental_update(new, old, 0.25)["w"]
    assert mixed.dtype == torch.bfloat16
    assert mixed.tolist() == [0.25] * 2
    for step, want in ((0, 1.0), (1, 0.0), (torch.tensor(3), 1.0), (torch.tensor(4), 0.0)):
        assert gx.periodic_update(new, {"w": torch.zeros(2)}, step, 3)["w"][0] == want
    with pytest.raises(ValueError, match="period must be an integer >= 1"):
        gx.periodic_update(new, new, 1, 0)
