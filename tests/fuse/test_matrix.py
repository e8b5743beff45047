"""Leaves as matrices: rows, columns and sign bits inside a fused pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.fuse.cpp import kernel
from gradtx.fuse.cpp.prelude import WIDTH
from gradtx.fuse.frontend import trace
from gradtx.fuse.ir.view import find, matrix
from gradtx.fuse.runtime import engine
from tests.fuse.helpers import assert_same, copy, run_both, tensors
from tests.fuse.user import by_order, scale_by_extremes

FUSED = "everything is fused"
R = gx.codecs.rank1


def factored_adam() -> gx.GradientTransformation:
    moments = gx.scale_by_adam(mu_codec=R(), nu_codec=R())
    return gx.chain(moments, gx.add_decayed_weights(0.1), gx.scale(-0.1))


CHAINS: dict[str, Callable[[], gx.GradientTransformation]] = {
    "factored adam": factored_adam,
    "factored average": lambda: gx.chain(gx.ema(0.9, codec=R()), gx.scale(-0.1)),
    "unsigned": lambda: gx.chain(gx.scale_by_rms(nu_codec=R()), gx.scale(-0.1)),
    "clipped": lambda: gx.chain(gx.clip_by_global_norm(0.5), factored_adam()),
    "centralized": lambda: gx.chain(gx.centralize(), gx.trace(0.9), gx.scale(-0.1)),
    "unit clipping": lambda: gx.chain(gx.adaptive_grad_clip(0.1), gx.scale(-0.1)),
    "extremes": lambda: gx.chain(scale_by_extremes(), gx.scale(-0.1)),
}
MATRICES: dict[str, Callable[[], gx.GradientTransformation]] = {
    "adafactor": lambda: gx.adafactor(0.1, min_dim_size_to_factor=2),
    "adafactor last": lambda: gx.adafactor(
        0.1, min_dim_size_to_factor=2, factored_dims="last", momentum=0.9
    ),
    "adafactor large": lambda: gx.adafactor(0.1),
}
SHAPES = {
    **{"scalar": (), "empty": (0,), "no_rows": (0, 3), "no_columns": (3, 0), "ones": (1, 1)},
    **{"row": (1, 9), "column": (9, 1), "prime": (1031,), "square": (48, 48), "deep": (2, 3, 1, 5)},
    **{"tall": (301, 7), "wide": (3, 1037), "one": (1,), "tiles": (700, 801)},
}
TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-9, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CHAINS)
def test_fused_is_pure(name: str, dtype: torch.dtype) -> None:
    shapes = {k: s for k, s in SHAPES.items() if 0 not in s or name != "extremes"}
    fused, pure, step = run_both(CHAINS[name](), shapes, dtype=dtype, steps=3)
    assert step.report() == FUSED
    assert_same(fused, pure, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] / 10)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", MATRICES)
def test_fused_is_pure_on_matrices(name: str, dtype: torch.dtype) -> None:
    shapes = {k: s for k, s in SHAPES.items() if len(s) < 3}
    fused, pure, step = run_both(
        MATRICES[name](), {**shapes, "large": (130, 200), "ties": (160, 160)}, dtype=dtype, steps=3
    )
    assert step.report() == FUSED
    assert_same(fused, pure, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] / 10)


@pytest.mark.parametrize("shape", [(5, WIDTH + 1), (2, 3 * WIDTH + 77), (3, 100_003)])
def test_rows_longer_than_a_task(shape: tuple[int, ...]) -> None:
    for name in ("centralized", "extremes", "unit clipping"):
        fused, pure, step = run_both(CHAINS[name](), {"w": shape}, steps=2)
        assert step.report() == FUSED
        assert_same(fused, pure)


@pytest.mark.parametrize("rows", [1111, 1303])
def test_pairs_of_rows(rows: int) -> None:
    fused, pure, step = run_both(factored_adam(), {"w": (rows, 1300)}, steps=2)
    assert step.report() == FUSED
    sign = fused[1]["scale_by_adam"]["w"].mu.sign
    assert sign.shape[0] > 1024
    assert_same(fused, pure)


def test_no_trace_and_no_kernel_for_other_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    engine._first.cache_clear()
    traced: list[Any] = []
    run = trace._run
    monkeypatch.setattr(trace, "_run", lambda *args: traced.append(args) or run(*args))
    step = gx.fuse(factored_adam())
    built = 0
    for n in range(2, 60):
        shapes = {str(i): (n + i, 3 + n % 5) for i in range(1 + n % 3)}
        params = tensors(shapes, 0)
        step(params, tensors(shapes, n), step.transform.init(params))
        built = built or len(kernel._kernels)
        assert len(kernel._kernels) == built
    assert len(traced) == 2  # one signature, two sizes
    assert step.report() == FUSED


@pytest.mark.parametrize("name", ["factored adam", "centralized", "extremes"])
def test_threads_and_repetition_do_not_change_the_numbers(name: str) -> None:
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        fused, _, _ = run_both(CHAINS[name](), {"a": (1500, 1000), "b": (77, 300)}, steps=2)
        results.append(fused)
    torch.set_num_threads(1)
    for other in results[1:]:
        assert_same(results[0], other, rtol=0, atol=0)


def test_sums_of_many_rows_are_accurate() -> None:
    shape = (150_001, 8)
    tx = gx.chain(gx.ema(0.0, debias=False, codec=R(signs=False)), gx.scale(0.0))
    g = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.5
    step, params = gx.fuse(tx), {"w": torch.zeros(shape)}
    state = tx.init(params)
    step(params, {"w": g}, state)
    assert step.report() == FUSED
    (row, col, *_) = next(x for x in state.values() if x)["w"].ema
    a, b = matrix("square", shape)
    want = g.double().reshape(a, b)
    torch.testing.assert_close(row.double(), want.sum(1), rtol=3e-7, atol=0)
    torch.testing.assert_close(col.double(), want.sum(0) / want.sum(), rtol=3e-7, atol=0)


def test_every_bit_of_the_padding_is_zero() -> None:
    shapes = {"w": (11, 10)}
    tx = gx.chain(gx.ema(0.5, codec=R()), gx.scale(-1.0))
    step, params = gx.fuse(tx), tensors(shapes, 0)
    state = tx.init(params)
    step(params, {"w": torch.ones(11, 10)}, state)
    sign = next(x for x in state.values() if x)["w"].ema.sign
    assert sign.shape == (11, 2)
    assert sign[:, 0].eq(255).all()
    assert sign[:, 1].eq(3).all()


def test_not_a_number_reaches_its_row_and_column_only() -> None:
    tx = CHAINS["centralized"]()
    params = {"w": torch.zeros(40, 30)}
    grads = tensors({"w": (40, 30)}, 1)
    grads["w"][7, 5] = torch.nan
    step = gx.fuse(tx)
    state = tx.init(params)
    step(params, grads, state)
    assert params["w"].isnan().any(1).nonzero().flatten().tolist() == [7]
    fused, pure, step = run_nan(CHAINS["extremes"]())
    assert_same(fused, pure)


def run_nan(tx: gx.GradientTransformation) -> tuple[Any, Any, Any]:
    params, grads = tensors({"w": (20, 30)}, 0), tensors({"w": (20, 30)}, 1)
    grads["w"][3, 4] = torch.nan
    pure, state, step = copy(params), tx.init(params), gx.fuse(tx)
    updates, pure_state = tx.update(grads, tx.init(pure), pure)
    step(params, grads, state)
    return (params, state), (gx.apply_updates(pure, updates), pure_state), step


@pytest.mark.parametrize("view", ["param", "grad", "both", "sliced", "state"])
def test_logical_order_counts(view: str) -> None:
    tx = factored_adam()
    p, g = torch.randn(6, 5, 4), torch.randn(6, 5, 4)
    if view in ("param", "both"):
        p = torch.randn(4, 5, 6).permute(2, 1, 0)
    if view in ("grad", "both"):
        g = torch.randn(4, 5, 6).permute(2, 1, 0)
    if view == "sliced":
        p = torch.randn(6, 5, 8)[..., ::2]
    want = {"p": p.clone(memory_format=torch.contiguous_format)}
    state, pure_state = tx.init({"p": p}), tx.init(want)
    if view == "state":
        leaf = state["scale_by_adam"]["p"]
        row = torch.zeros(2 * len(leaf.mu.row))[::2]
        state["scale_by_adam"]["p"] = leaf._replace(mu=leaf.mu._replace(row=row))
    step = gx.fuse(tx)
    for _ in range(3):
        step({"p": p}, {"p": g}, state)
        updates, pure_state = tx.update({"p": g}, pure_state, want)
        want = gx.apply_updates(want, updates)
    assert step.report() == FUSED
    assert_same(({"p": p}, state), (want, pure_state))


def test_two_views_in_one_chain() -> None:
    tx = gx.chain(gx.centralize(), factored_adam())
    fused, pure, step = run_both(tx, {"w": (24, 5), "v": (16, 16)})
    assert_same(fused, pure)
    assert "another matrix" in step.report()


def test_a_tie_that_the_probes_cannot_show_is_found() -> None:
    fused, pure, step = run_both(by_order(), {"w": (12, 12)})
    assert_same(fused, pure)
    assert "different numbers" in step.report()
    fused, pure, step = run_both(by_order(), {"w": (12, 11), "v": (3, 20)})
    assert_same(fused, pure)
    assert step.report() == FUSED


def test_a_state_of_another_shape_is_refused_unchanged() -> None:
    tx = factored_adam()
    params = tensors({"w": (6, 5)}, 0)
    state = tx.init(tensors({"w": (7, 5)}, 0))
    before = copy((params, state))
    with pytest.raises((ValueError, RuntimeError), match=r"shape|size"):
        gx.fuse(tx)(params, tensors({"w": (6, 5)}, 1), state)
    assert_same((params, state), before, rtol=0, atol=0)


def test_one_pass_over_elements() -> None:
    text = gx.explain(factored_adam(), {"w": torch.ones(512, 1024)})
    assert text.count("fused, 1 pass") == 3
    (moved,) = re.findall(r"per parameter: ([\d.]+) bytes", text)
    assert 12.2 < float(moved) < 12.5  # gradient, parameter twice, signs twice, factors


def test_elements_are_written_before_the_factors_are_finished() -> None:
    text = gx.explain(gx.zero_nans(), {"w": torch.ones(1000)})
    assert "fused, 1 pass" in text


def test_rules() -> None:
    assert matrix(1, (4, 3, 5)) == (4, 15)
    assert matrix("square", (0, 3)) == (0, 0)
    shapes = [(12, 10), (20, 30)]
    assert find(shapes, [(12, 10), (20, 30)]) == 1
    assert find(shapes, [(12, 10), (25, 24)]) == "square"
    assert find(shapes, [(10, 12), (30, 20)]) is None


def test_factors_of_many_leaves() -> None:
    shapes = {str(i): (i % 7 + 1, i % 11 + 1) for i in range(60)}
    fused, pure, step = run_both(factored_adam(), shapes, steps=2)
    assert step.report() == FUSED
    assert_same(fused, pure)


def test_leaves_of_a_module_are_stepped_in_place() -> None:
    p = torch.randn(30, 20)
    state = factored_adam().init({"w": p})
    row: Tensor = state["scale_by_adam"]["w"].mu.row
    params, new = gx.fuse(factored_adam())({"w": p}, {"w": torch.ones(30, 20)}, state)
    assert params["w"] is p
    assert new["scale_by_adam"]["w"].mu.row is row
    assert row.gt(0).all()
