"""Arithmetic of trees: missing leaves, dtypes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.core.random import make_key, normal

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


def test_dtypes_of_trees() -> None:
    half, whole = torch.ones(1, dtype=torch.float16), torch.ones(1, dtype=torch.float64)
    mixed = {"a": half, "b": whole, "n": None}
    assert gx.tree.dtype(mixed, "lowest") == torch.float16
    assert gx.tree.dtype(mixed, "highest") == gx.tree.dtype(mixed, "promote") == torch.float64
    other = {"a": half, "b": half.bfloat16()}
    assert gx.tree.dtype(other, "promote") == torch.float32
    for values, how, message in (
        (mixed, None, "different dtypes"),
        (other, "highest", "neither of"),
        ({"n": None}, None, "has no leaves"),
        (mixed, "largest", "mixed must be"),
    ):
        with pytest.raises(ValueError, match=message):
            gx.tree.dtype(values, how)  # type: ignore[arg-type]
    assert gx.tree.cast_like(mixed, {"a": whole, "b": half, "n": None})["b"].dtype == torch.float16


def test_moments_of_complex_entries() -> None:
    u, m = {"z": torch.tensor([3 - 4j])}, {"z": torch.tensor([1.0])}
    torch.testing.assert_close(
        gx.tree.update_moment_per_elem_norm(u, m, 0.5, 2)["z"], torch.tensor([13.0])
    )
    assert gx.tree.update_infinity_moment(u, {"z": torch.tensor([9.0])}, 0.5, 0.0)["z"] == 5.0
    assert gx.tree.real(gx.tree.conj(u))["z"].dtype == torch.float32


def test_keys_are_those_that_random_like_uses() -> None:
    keys = gx.tree.split_key_like(make_key(3), A)
    drawn = gx.tree.random_like(make_key(3), A)
    assert torch.equal(drawn["x"], normal(keys["x"], (2,), torch.float32))
    assert keys["n"] is None


@pytest.mark.parametrize("ord", [None, 1, 2, "fro", torch.inf])
def test_norms_with_a_floor(ord: Any) -> None:
    x = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    for axis, keep in ((None, False), (1, True), (1, False), ((0, 1), True)):
        if ord == "fro" and axis == 1:
            continue
        want = torch.linalg.norm(x, ord, axis, keep)
        got = gx.safe_norm(x, 4.0, ord, axis, keep)
        torch.testing.assert_close(got, want.clamp(min=4.0))
    floor = torch.func.grad(lambda x: gx.safe_norm(x, 0.1, ord))(0 * x)
    assert not floor.any()


def test_root_mean_squares_with_a_floor() -> None:
    x = torch.tensor([3.0, 4.0])
    assert gx.safe_root_mean_squares(x, 1.0) == (x.square().mean()).sqrt()
    assert gx.safe_root_mean_squares(x, 9.0) == 9.0
    assert not torch.func.grad(gx.safe_root_mean_squares)(torch.zeros(2), 0.0).any()
    torch.testing.assert_close(gx.safe_root_mean_squares(x + 0j, 0.0), torch.tensor(12.5).sqrt())


def test_random_numbers_of_another_dtype_and_nan_that_equals_itself() -> None:
    key, like = make_key(3), {"a": torch.zeros(2)}
    assert gx.tree.random_like(key, like, dtype=torch.float64)["a"].dtype == torch.float64
    broken = {"a": torch.tensor([1.0, float("nan")])}
    assert not gx.tree.allclose(broken, broken)
    assert gx.tree.allclose(broken, broken, equal_nan=True)


def test_a_default_stands_for_what_a_state_does_not_have() -> None:
    state = gx.trace(0.9).init({"w": torch.ones(1), "b": torch.ones(1)})
    assert gx.tree.get(state, "step", None) is None
    with pytest.raises(KeyError, match="2 places"):
        gx.tree.get(state, "trace", None)
