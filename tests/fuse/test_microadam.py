"""MicroAdam through its kernel: the numbers of the chain, and what falls back to the chain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
import gradtx_cuda
from gradtx.recipes._microadam_kernel import Members, MicroAdamKernel

from .helpers import assert_same, copy, tensors

pytestmark = pytest.mark.skipif(not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason)
SHAPES: dict[str, tuple[int, ...]] = {
    **{"scalar": (), "empty": (0,), "one": (1,), "row": (1, 9), "odd": (1031,)},
    **{"deep": (3, 2, 4), "w": (200, 300), "blocks": (2, 16384), "tail": (16384 + 3,)},
    **{f"many{i}": (i,) for i in range(20)},
}
FUSED: dict[str, dict[str, Any]] = {
    "default": {},
    "decay": {"weight_decay": 0.1},
    "mean": {"bias_correction": "window", "window": 3},
    "zero": {"include_zero": True},
    "dense": {"density": 1.0},
    "small blocks": {"block_size": 64, "quant_block_size": 32, "density": 0.1},
    "long ranges": {"quant_block_size": 128},
    "scheduled": {"lr": gx.schedules.linear(0.1, 0.0, 4), "weight_decay": 0.1},
    "all scheduled": {
        "b1": gx.schedules.linear(0.9, 0.5, 4),
        "weight_decay": gx.schedules.linear(0.1, 0.2, 4),
        "lr": gx.schedules.linear(0.1, 0.0, 4),
    },
}
UNFUSED: dict[str, dict[str, Any]] = {
    "release": {"alpha": 0.1},
    "feed through": {"alpha": -2},
    "parity": {"parity": True},
    "stochastic": {"rounding": "stochastic"},
    "float32 state": {"state_dtype": torch.float32},
    "mask": {"mask": lambda info: info.ndim > 1},
    "no rate": {"lr": None},
}


match = MicroAdamKernel().match


def chain(**options: Any) -> gx.GradientTransformation:
    return gx.microadam(**{"lr": 0.1, "window": 4, **options})


def gradients(t: int, dtype: torch.dtype, shapes: dict[str, Any] = SHAPES) -> dict[str, Any]:
    """Gradients of a step; some leaves have none now and then."""
    names = list(shapes)
    grads: dict[str, Any] = tensors(shapes, t, dtype)
    return {k: None if (names.index(k) + t) % 7 == 3 else g for k, g in grads.items()}


def run_both(tx: gx.GradientTransformation, dtype: torch.dtype, steps: int = 6) -> Any:
    step, params = gx.fuse(tx), tensors(SHAPES, 0, dtype)
    state = tx.init(params)
    pure_params, pure_state = copy(params), copy(state)
    for t in range(1, steps + 1):
        grads = gradients(t, dtype)
        params, state = step(params, grads, state)
        updates, pure_state = tx.update(grads, pure_state, pure_params)
        pure_params = gx.apply_updates(pure_params, updates)
    return (params, state), (pure_params, pure_state), step


def assert_equal(a: Any, b: Any) -> None:
    assert_same(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FUSED)
def test_same_state_and_same_parameters(name, dtype):
    tx = chain(**FUSED[name])
    fused, pure, step = run_both(tx, dtype)
    assert step.report() == "everything is fused"
    assert_equal(fused[1], pure[1])
    one_rounding = {torch.float32: 1e-6, torch.bfloat16: 8e-3}[dtype]
    assert_same(fused[0], pure[0], rtol=one_rounding, atol=one_rounding)


@pytest.mark.parametrize("name", UNFUSED)
def test_other_options_run_as_the_chain(name):
    tx = chain(**UNFUSED[name])
    assert not isinstance(match(tx), Members)
    fused, pure, step = run_both(tx, torch.float32, steps=2)
    assert step.report() != "everything is fused"
    assert_same(fused, pure)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_run_as_the_chain(dtype):
    fused, pure, step = run_both(chain(), dtype, steps=2)
    assert step.report() != "everything is fused"
    assert_same(fused, pure)


def test_only_whole_chains_match():
    assert isinstance(match(chain()), Members)
    assert "clip" in match(gx.chain(gx.clip(1.0), chain()))
    assert match(gx.chain(chain(), gx.scale(2.0))) == "scale stands outside apply_if_leaf_finite"
    assert match(gx.adamw(0.1)) is None


def test_why_a_kernel_is_passed_over_is_said_once(caplog):
    tx = gx.chain(chain(), gx.scale(2.0))
    params = tensors({"w": (500,)}, 0)
    assert "no microadam kernel: scale stands outside" in gx.explain(tx, params)
    with caplog.at_level("INFO", "gradtx"):
        step, state = gx.fuse(tx), tx.init(params)
        for t in (1, 2):
            params, state = step(params, tensors({"w": (500,)}, t), state)
    assert sum("without microadam kernel" in line for line in caplog.messages) == 1
    caplog.clear()
    p = [torch.ones(500, requires_grad=True)]
    opt = gx.optim.MicroAdam(p, state_dtype="float32")
    with caplog.at_level("INFO", "gradtx"):
        for _ in range(2):
            p[0].grad = torch.ones(500)
            opt.step()
    assert sum("without microadam kernel" in line for line in caplog.messages) == 1


def test_without_the_finite_check_and_without_decay():
    keep = gx.compressors.block_top_k(0.1)
    codec = gx.codecs.affine(4, 64, stats_dtype=torch.bfloat16)
    tx = gx.chain(
        gx.error_feedback(keep, codec, gx.sliding_window_adam(compressor=keep)),
        gx.scale_by_learning_rate(0.1),
    )
    fused, pure, step = run_both(tx, torch.float32, steps=3)
    assert step.report() == "everything is fused"
    assert_equal(fused[1], pure[1])
    assert_same(fused[0], pure[0])


def spoiled() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    params = tensors({"a": (70_000,), "b": (5,)}, 0)
    grads = tensors({"a": (70_000,), "b": (5,)}, 1)
    grads["a"][69_999] = torch.nan
    return params, grads


def test_a_gradient_that_is_not_finite_is_an_error_that_changes_nothing():
    tx = chain(lr=gx.schedules.linear(0.1, 0.0, 4))
    params, grads = spoiled()
    state, step = tx.init(params), gx.fuse(tx)
    before = copy((params, state))
    with pytest.raises(ValueError, match="apply_if_leaf_finite: leaf 'a': the update has a NaN"):
        step(params, grads, state)
    assert_equal((params, state), before)


def test_a_gradient_that_is_not_finite_is_skipped():
    tx = chain(nonfinite="skip", lr=gx.schedules.linear(0.1, 0.0, 4))
    params, grads = spoiled()
    state, step = tx.init(params), gx.fuse(tx)
    updates, pure_state = tx.update(grads, state, params)
    pure = gx.apply_updates(params, updates)
    params, state = step(params, grads, copy(state))
    assert step.report() == "everything is fused"
    assert_same(params, pure)
    assert_equal(state, pure_state)


def test_awkward_memory():
    tx, grads = chain(), {"w": torch.randn(8, 600).t()}
    params = {"w": torch.randn(600, 8)}
    step, state = gx.fuse(tx), tx.init(params)
    updates, pure_state = tx.update(grads, state, params)
    pure = gx.apply_updates(params, updates)
    got, state = step(copy(params), grads, copy(state))
    assert step.report() == "everything is fused"
    assert_same((got, state), (pure, pure_state))
    strided = {"w": torch.randn(8, 600).t()}  # parameters must be contiguous
    step = gx.fuse(tx)
    step(strided, grads, tx.init(strided))
    assert step.report() != "everything is fused"


def test_a_window_that_points_out_of_its_block_does_not_match():
    tx, params = chain(), tensors({"w": (500,)}, 0)
    state = tx.init(params)
    state["apply_if_leaf_finite"]["error_feedback"].inner_state["w"].indices.fill_(600)
    with pytest.raises((RuntimeError, IndexError)):
        gx.fuse(tx)(params, tensors({"w": (500,)}, 1), state)


def optimizer(params: list[Tensor], fuse: bool) -> torch.optim.Optimizer:
    groups = [
        {"params": params[:2], "weight_decay": 0.1},
        {"params": params[2:], "lr": 0.02, "betas": (0.8, 0.9), "maximize": True},
    ]
    return gx.optim.MicroAdam(groups, lr=0.1, fused=fuse)


def test_the_optimizer_with_groups_and_resumed():
    shapes = {"a": (300, 70), "b": (7,), "c": (5000,), "d": ()}
    params = [[p.requires_grad_() for p in tensors(shapes, 0).values()] for _ in range(2)]
    optimizers = [optimizer(p, fuse) for p, fuse in zip(params, (True, False), strict=True)]
    for t in range(1, 7):
        for ps, opt in zip(params, optimizers, strict=True):
            grads = gradients(t, torch.float32, shapes)
            for p, g in zip(ps, grads.values(), strict=True):
                p.grad = g
            opt.step()
        if t == 3:
            optimizers[0].load_state_dict(optimizers[0].state_dict())
    assert_same(params[0], params[1])
    states = [[opt.state[p] for p in ps] for ps, opt in zip(params, optimizers, strict=True)]
    assert_equal(states[0], states[1])


def test_explain():
    text = gx.explain(gx.microadam(0.1), {"w": torch.ones(1024, 1024)})
    assert "microadam kernel" in text
    assert "0.96" in text  # bytes of state
    assert "moved per parameter: 14.1 bytes, 0.50 times AdamW's 28" in text
