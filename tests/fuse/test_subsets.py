"""Second moments of subsets: sums of rows that are used in the same pass."""

from __future__ import annotations

import warnings

import pytest
import torch

import gradtx as gx
from gradtx.fuse.cpp.prelude import WIDTH
from tests.fuse.helpers import assert_same, run_both, tensors

RUNS = {
    **{"scalar": (), "empty": (0,), "one": (1,), "prime": (1031,), "vector": (96,)},
    **{"square": (48, 48), "deep": (4, 6, 10), "wide": (3, 1036), "large": (260, 400)},
}
MATRICES = {
    **{"vector": (9,), "square": (48, 48), "tall": (301, 7), "wide": (7, 301), "ones": (1, 1)},
    **{"row": (1, 9), "column": (9, 1), "long": (2, 3), "large": (260, 400)},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("subset", [-2, -1, 7, 64])
def test_runs(subset: int, dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prime number of elements has no runs
        fused, pure, step = run_both(gx.adamw_sn(0.1, subset=subset), RUNS, dtype, steps=3)
    assert step.report() == "everything is fused"
    rtol = 3e-5 if dtype == torch.float32 else 2e-2
    assert_same(fused, pure, rtol, rtol / 10)


@pytest.mark.parametrize("subset", ["heuristics", "matrix"])
def test_rows_and_columns(subset: str) -> None:
    fused, pure, step = run_both(gx.adamw_sn(0.1, subset=subset), MATRICES, steps=3)
    assert step.report() == "everything is fused"
    assert_same(fused, pure)


def test_sums_without_a_moment() -> None:
    fused, pure, step = run_both(gx.rmsprop_sn(0.1, subset=-2), {"w": (64, 96)})
    assert step.report() == "everything is fused"
    assert_same(fused, pure)


def test_rows_wider_than_a_task() -> None:
    """Some leaves are done row by row, another in the same step is not."""
    shapes = {"wide": (3, 2 * WIDTH), "narrow": (700, 32)}
    fused, pure, step = run_both(gx.adamw_sn(0.1, subset="matrix"), shapes)
    assert step.report() == "everything is fused"
    assert_same(fused, pure)
    runs = gx.chain(gx.scale_by_subset_norm(2 * WIDTH), gx.scale(-0.1))
    fused, pure, step = run_both(runs, {"wide": (6 * WIDTH,), "narrow": (64, 32)})
    assert_same(fused, pure)


def test_rows_stay_in_cache() -> None:
    """The update of a row follows its sum within a task; sums over all of a leaf do not."""
    params = tensors({"w": (64, 96)}, 0)
    plans = {}
    for name, tx in {
        "rows": gx.adamw_sn(0.1),
        "columns": gx.adamw_sn(0.1, subset="heuristics"),
        "leaf": gx.chain(gx.clip_by_block_rms(0.1), gx.adamw_sn(0.1)),
    }.items():
        step = gx.fuse(tx)
        bound = step.engine.describe(step.engine.gather(params, params, tx.init(params)))
        (kernel,) = bound.kernels[bound.cut[-1], "all"].values()
        stages = range(kernel.stages)
        plans[name] = [kernel.stage_plan.by_row(s) for s in stages]
    assert plans == {"rows": [False, True], "columns": [False, False], "leaf": [False, False, True]}
