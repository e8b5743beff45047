from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradtx as gx

from .strategies import like, run, same, seeds, some_transform, trees


def labelling(tree: Any, picks: list[Any]) -> Any:
    """A tree of labels of the same structure, from a list used round and round."""
    leaves, spec = gx.tree.flatten(tree)
    return spec.unflatten([picks[i % len(picks)] for i in range(len(leaves))])


PICKS = st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=5)
BOOLS = st.lists(st.booleans(), min_size=1, max_size=5)


@given(trees(), PICKS)
def test_partition_into_the_same_transform_is_that_transform(params: Any, picks: Any) -> None:
    tx = some_transform()
    parts = gx.partition(dict.fromkeys("xyz", tx), by=labelling(params, picks))
    assert same(run(parts, params)[0], run(tx, params)[0])


@given(trees(), BOOLS)
def test_masked_and_its_complement_make_the_whole(params: Any, picks: Any) -> None:
    tx, mask = some_transform(), labelling(params, picks)
    both = gx.chain(gx.masked(tx, mask), gx.masked(tx, gx.tree.map(lambda x: not x, mask)))
    assert same(run(both, params)[0], run(tx, params)[0])


@given(trees(), BOOLS, BOOLS)
def test_nested_masks_intersect(params: Any, one: Any, two: Any) -> None:
    tx, a, b = some_transform(), labelling(params, one), labelling(params, two)
    both = gx.tree.map(lambda x, y: x and y, a, b)
    assert same(run(gx.masked(gx.masked(tx, a), b), params)[0], run(gx.masked(tx, both), params)[0])


@given(trees())
def test_mask_of_everything_and_of_nothing(params: Any) -> None:
    tx = some_transform()
    assert same(run(gx.masked(tx, lambda info: True), params), run(tx, params))
    outs, state = run(gx.masked(tx, lambda info: False), params)
    assert same(outs, [like(params, step) for step in range(3)])
    assert gx.tree.leaves(state) == []


@given(trees(), BOOLS, seeds)
def test_freeze(params: Any, picks: Any, seed: int) -> None:
    mask, grads = labelling(params, picks), like(params, seed)
    out, state = gx.freeze(mask).update(grads, gx.freeze(mask).init(params), params)
    assert state == ()
    want = gx.tree.map(lambda g, m: torch.zeros_like(g) if m else g, grads, mask)
    assert same(out, want)


def test_labels_may_stop_above_the_leaves() -> None:
    params = {"encoder": {"w": torch.ones(2), "b": torch.ones(1)}, "head": torch.ones(1)}
    tx = gx.partition(
        {"slow": gx.scale(0.1), "fast": gx.scale(10.0)}, by={"encoder": "slow", "head": "fast"}
    )
    out, _ = tx.update(params, tx.init(params), params)
    assert out["encoder"]["b"].item() == pytest.approx(0.1)
    assert out["head"].item() == 10.0


def test_predicates_see_names_and_shapes() -> None:
    seen = []

    def by(info: gx.LeafInfo) -> str:
        seen.append((info.name, info.shape, info.dtype))
        return "all"

    params = {"a": [torch.ones(2, 3), torch.ones((), dtype=torch.bfloat16)]}
    tx = gx.partition({"all": gx.scale(1.0)}, by=by)
    tx.update(params, tx.init(params), params)
    leaves = [("a.0", (2, 3), torch.float32), ("a.1", (), torch.bfloat16)]
    assert seen == leaves * 2


def test_predicates_see_the_parameter_not_the_update() -> None:
    """A float32 update of a bf16 parameter keeps its label."""
    tx = gx.partition(
        {"half": gx.trace(0.9), "full": gx.scale(1.0)},
        by=lambda info: "half" if info.dtype == torch.bfloat16 else "full",
    )
    params = {"w": torch.ones(1, dtype=torch.bfloat16)}
    state = tx.init(params)
    for _ in range(2):
        out, state = tx.update({"w": torch.ones(1)}, state, params)
    assert out["w"].item() == pytest.approx(1.9)


def test_labels_need_a_transform() -> None:
    tx = gx.partition({"x": gx.scale(1.0)}, by=lambda info: "y")
    with pytest.raises(ValueError, match=r"partition: leaf 'w' has label 'y'; .*\['x'\]"):
        tx.init({"w": torch.ones(1)})


def test_partition_state_has_one_entry_per_label() -> None:
    tx = gx.partition({"x": gx.trace(0.9), "y": gx.scale(1.0)}, by=lambda info: "x")
    params = {"w": torch.ones(1)}
    assert list(tx.init(params)) == ["x", "y"]
    with pytest.raises(gx.TreeMismatchError, match="partition: the state has members"):
        tx.update(params, {"x": ()}, params)


def test_hyper_reaches_one_label() -> None:
    tx = gx.partition(
        {"x": gx.scale(1.0), "y": gx.scale(1.0)}, by=lambda info: "x" if info.ndim else "y"
    )
    params = {"v": torch.ones(1), "s": torch.ones(())}
    out, _ = tx.update(params, tx.init(params), params, hyper={"x.step_size": 5.0})
    assert (out["v"].item(), out["s"].item()) == (5.0, 1.0)


def test_integer_leaves_may_be_masked_out() -> None:
    tx = gx.masked(gx.scale(2.0), lambda info: info.dtype.is_floating_point)
    params = {"w": torch.ones(1), "n": torch.ones(1, dtype=torch.int64)}
    out, _ = tx.update(params, tx.init(params), params)
    assert (out["w"].item(), out["n"].item()) == (2.0, 1)


def test_wrong_mask_structure() -> None:
    tx = gx.masked(gx.scale(1.0), {"other": True})
    with pytest.raises(gx.TreeMismatchError, match="masked: "):
        tx.init({"w": torch.ones(1)})


def test_equal_transforms_have_equal_hashes() -> None:
    for make in (
        lambda: gx.masked(gx.scale(1.0), {"w": True}),
        lambda: gx.freeze({"w": True}),
        lambda: gx.partition({"x": gx.scale(1.0)}, by={"w": "x"}),
    ):
        assert make() == make()
        assert hash(make()) == hash(make())
