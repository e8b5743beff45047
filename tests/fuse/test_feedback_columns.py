"""Columns of cosine components whose error is overwritten: the bits of the same steps in parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gradtx as gx
import gradtx_cuda
from gradtx.compressors import columns
from gradtx.ops.tables import Entry
from tests.fuse.helpers import assert_same, copy, run_both, tensors

pytestmark = pytest.mark.skipif(not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason)
SHAPES: dict[str, tuple[int, ...]] = {
    **{"tall": (200, 160), "wide": (24, 1300), "square": (32, 32), "thin": (9, 1), "b": (7,)},
    **{"conv": (12, 5, 4), "odd": (30, 13)},
}
IN_PLACE: dict[str, dict[str, Any]] = {
    "8 bits": {},
    "4 bits": {"ef_bits": 4},
    "squares": {"selection_norm": "l2"},
    "transposed": {"basis": "dct3"},
    "both": {"basis": "released_matmul"},
    "left": {"side": "left", "rank": 3},
}
IN_PARTS: dict[str, dict[str, Any]] = {
    "levels": {"ef_levels": 100},
    "spectral": {"ef_domain": "spectral"},
    "float32": {"ef_bits": None},
    "more than half": {"rank": 128},
    "now and then": {"update_proj_gap": 2},
    "weighted": {"scale_by_basis_norm": True},
    "product": {"transform": "matmul"},
}


def chain(**options: Any) -> gx.GradientTransformation:
    given = {"rank": 4, "use_ef": True, "ef_bits": 8, "weight_decay": 0.1, **options}
    return gx.dct_adamw(0.1, **given)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is compressed in place."""
    seen: list[Any] = []
    kernel = columns.columns_with_feedback_

    def counted(*args: Any) -> Any:
        seen.append(args)
        return kernel(*args)

    monkeypatch.setattr(columns, "columns_with_feedback_", counted)
    return seen


def run(tx: gx.GradientTransformation, spoil: bool, **options: Any) -> Any:
    step, params = gx.fuse(tx), tensors(SHAPES, 0, **options)
    state = tx.init(params)
    for t in range(1, 6):
        grads = tensors(SHAPES, t, **options)
        if spoil and t == 3:
            grads["tall"][3, 5], grads["wide"][2, 7] = torch.nan, torch.inf
        params, state = step(params, grads, state)
    return params, state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spoil", [False, True], ids=["finite", "not finite"])
@pytest.mark.parametrize("name", IN_PLACE)
def test_the_bits_of_the_steps_in_parts(name, spoil, dtype, calls, monkeypatch):
    tx = chain(**IN_PLACE[name])
    whole = run(tx, spoil, dtype=dtype)
    assert len(calls) >= 15
    calls.clear()
    monkeypatch.setattr(Entry, "is_there", False)
    assert_same(whole, run(tx, spoil, dtype=dtype), rtol=0, atol=0)
    assert not calls


@pytest.mark.parametrize("name", IN_PARTS)
def test_other_options_run_in_parts(name, calls):
    fused, pure, _ = run_both(chain(**IN_PARTS[name]), {"w": (24, 40), "v": (40, 24)})
    assert_same(fused, pure, 1e-4, 1e-5)
    assert not calls


def test_the_error_stays_where_it_is():
    step, params = gx.fuse(chain()), tensors({"w": (40, 24)}, 0)
    state = step.transform.init(params)
    params, state = step(params, tensors({"w": (40, 24)}, 1), state)
    before = copy(state)
    places = [x.data_ptr() for x in gx.tree.leaves(state)]
    params, state = step(params, tensors({"w": (40, 24)}, 2), state)
    assert [x.data_ptr() for x in gx.tree.leaves(state)] == places
    codes = [x for x in gx.tree.leaves(state) if x.dtype == torch.uint8]
    earlier = [x for x in gx.tree.leaves(before) if x.dtype == torch.uint8]
    assert not any(torch.equal(a, b) for a, b in zip(codes, earlier, strict=True))


def test_the_pure_update_overwrites_nothing(calls):
    tx, params = chain(), tensors({"w": (40, 24)}, 0)
    state = tx.init(params)
    before = copy(state)
    tx.update(tensors({"w": (40, 24)}, 1), state, params)
    assert_same(state, before, rtol=0, atol=0)
    assert not calls


def test_threads_change_nothing():
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(chain(), spoil=False))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert_same(other, results[0], rtol=0, atol=0)


def test_a_form_for_executors_only_where_nothing_can_fail():
    keep = gx.compressors.top_columns(2, basis="dct2")
    codec = gx.codecs.affine_rows(8)
    plain = gx.error_feedback(keep, codec)
    assert plain.low_rank_form() is not None
    others = [
        gx.error_feedback(keep, codec, release=0.1),
        gx.error_feedback(keep, codec, leftover="apply"),
        gx.error_feedback(keep, codec, in_param_dtype=True),
        gx.error_feedback(keep, codec, gx.stateless(lambda u, p: u)),
        gx.error_feedback(gx.compressors.top_k(k=1), codec),
    ]
    assert all(tx.low_rank_form() is None for tx in others)
