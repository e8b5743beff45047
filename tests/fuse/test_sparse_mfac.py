"""Sparse M-FAC through its kernels: the numbers of the chain, and what falls back to the chain."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gradtx as gx
import gradtx_cuda
from gradtx.recipes._sparse_mfac_kernel import Members, SparseMFACKernel

from .helpers import assert_same, copy, tensors

pytestmark = pytest.mark.skipif(not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason)
SHAPES: dict[str, tuple[int, ...]] = {
    **{"scalar": (), "empty": (0,), "one": (1,), "row": (1, 9), "deep": (3, 2, 4)},
    **{"w": (200, 130), "tail": (16384 + 3,)},
}
LINEAR = gx.schedules.linear
FUSED: dict[str, dict[str, Any]] = {
    "default": {},
    "momentum and decay": {"momentum": 0.9, "weight_decay": 0.1},
    "coarse": {"density": 0.2, "block_size": 64, "dtype": torch.bfloat16},
    "dense": {"density": 1.0, "normalize": "count", "nonfinite": "ignore"},
    "scheduled": {
        "lr": LINEAR(0.1, 0.0, 4),
        "damping": LINEAR(0.1, 0.2, 4),
        "momentum": LINEAR(0.5, 0.9, 4),
        "weight_decay": LINEAR(0.1, 0.0, 4),
    },
}
UNFUSED: dict[str, dict[str, Any]] = {
    "average": {"momentum": 0.9, "momentum_kind": "ema"},
    "coupled": {"weight_decay_kind": "coupled"},
    "query": {"query": "gradient"},
    "decay in the query": {"weight_decay": 0.1, "weight_decay_kind": "reg"},
    "one vector": {"scope": "block"},
    "skip": {"nonfinite": "skip"},
    "no rate": {"lr": None},
}


def chain(**options: Any) -> gx.GradientTransformation:
    return gx.sparse_mfac(**{"lr": 0.1, "window": 3, "damping": 0.1, **options})


def run_both(tx: gx.GradientTransformation, dtype: torch.dtype, missing: bool = True) -> Any:
    step, params = gx.fuse(tx), tensors(SHAPES, 0, dtype)
    state = tx.init(params)
    pure_params, pure_state = copy(params), copy(state)
    for t in range(1, 7):
        grads: dict[str, Any] = tensors(SHAPES, t, dtype)
        if missing and t in (3, 4):
            grads["w"] = grads["one"] = None
        params, state = step(params, grads, state)
        updates, pure_state = tx.update(grads, pure_state, pure_params)
        pure_params = gx.apply_updates(pure_params, updates)
    return (params, state), (pure_params, pure_state), step


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FUSED)
def test_same_state_and_same_parameters(name, dtype):
    fused, pure, step = run_both(chain(**FUSED[name]), dtype)
    assert step.report() == "everything is fused"
    one_rounding = {torch.float32: 2e-6, torch.bfloat16: 8e-3}[dtype]
    assert_same(fused[1], pure[1], rtol=2e-6, atol=2e-6)
    assert_same(fused[0], pure[0], rtol=one_rounding, atol=one_rounding)


@pytest.mark.parametrize("name", UNFUSED)
def test_other_options_run_as_the_chain(name):
    tx = chain(**UNFUSED[name])
    assert not isinstance(SparseMFACKernel().match(tx), Members)
    fused, pure, _ = run_both(tx, torch.float32, missing=name != "one vector")
    assert_same(fused, pure)


@pytest.mark.parametrize("members", [(gx.clip(1.0),), (gx.clip(1.0), gx.scale(1.0))])
def test_only_whole_chains_match(members):
    found = SparseMFACKernel().match(gx.chain(*members, chain()))
    assert isinstance(found, str)
    assert "clip" in found
    assert SparseMFACKernel().match(gx.adamw(0.1)) is None
    assert SparseMFACKernel().match(gx.mfac(0.1)) is None


@pytest.mark.parametrize("spoil", ["gradient", "damping"])
def test_an_error_changes_nothing(spoil):
    tx = chain(damping=LINEAR(0.1, 0.0, 1) if spoil == "damping" else 0.1)
    step, params = gx.fuse(tx), tensors(SHAPES, 0)
    state = tx.init(params)
    params, state = step(params, tensors(SHAPES, 1), state)
    before, grads = copy((params, state)), tensors(SHAPES, 2)
    if spoil == "gradient":
        grads["w"][7, 7] = torch.inf
    message = "leaf 'w': the update has a NaN" if spoil == "gradient" else "damping must be in"
    with pytest.raises(ValueError, match=message):
        step(params, grads, state)
    assert_same((params, state), before, rtol=0, atol=0)


def test_the_optimizer_with_groups_and_resumed():
    shapes = {"a": (300, 7), "b": (7,), "c": (500,)}
    params = [[p.requires_grad_() for p in tensors(shapes, 0).values()] for _ in range(2)]
    optimizers = [
        gx.optim.SparseMFAC(
            [
                {"params": ps[:2], "weight_decay": 0.1},
                {"params": ps[2:], "lr": 0.02, "maximize": True},
            ],
            **{"lr": 0.1, "window": 4, "density": 0.1, "damping": 0.1, "fused": fuse},
        )
        for ps, fuse in zip(params, (True, False), strict=True)
    ]
    for t in range(1, 8):
        for ps, opt in zip(params, optimizers, strict=True):
            for p, g in zip(ps, tensors(shapes, t).values(), strict=True):
                p.grad = g
            opt.step()
        if t == 3:
            optimizers[0].load_state_dict(optimizers[0].state_dict())
    assert_same(params[0], params[1])


def test_explain():
    text = gx.explain(gx.sparse_mfac(0.1, window=4), {"w": torch.ones(1024, 1024)})
    assert "sparse M-FAC kernel" in text
