"""Gradients that are multiplied with something small: only that goes from part to part."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import gradtx as gx
from gradtx.fuse.ir.graph import Input
from tests.fuse.helpers import assert_same, run_both, tensors

SHAPES = {"tall": (40, 12), "wide": (12, 40), "square": (12, 12), "thin": (9, 1), "b": (7,)}
CHAINS: dict[str, Callable[[], gx.GradientTransformation]] = {
    "channels": lambda: gx.apollo(0.1, rank=4, update_proj_gap=2, scale=2.0, weight_decay=0.1),
    "tensor": lambda: gx.apollo_mini(0.1, update_proj_gap=2),
    "two sides": lambda: gx.apollo(
        0.1, rank=4, proj="svd", proj_type="full", scale_type="tensor", limit_growth=False
    ),
    "another part after it": lambda: gx.chain(
        *(tx for _, tx in gx.apollo(0.1, rank=4)), gx.subspace_momentum(gx.subspace.uniform(3))
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", CHAINS)
def test_fused_is_pure(name: str, dtype: torch.dtype) -> None:
    rtol = {torch.float32: 3e-5, torch.bfloat16: 2e-2, torch.float64: 1e-9}[dtype]
    fused, pure, step = run_both(CHAINS[name](), SHAPES, dtype=dtype)
    assert_same(fused, pure, rtol, rtol / 10)
    assert "branches" in step.report() or "no fused form" in step.report()


def inputs(tx: gx.GradientTransformation, shape: tuple[int, ...]) -> set[Input]:
    """What the last part reads of the one before it."""
    step, params = gx.fuse(tx), tensors({"w": shape}, 0)
    bound = step.engine.describe(step.engine.gather(params, params, tx.init(params)))
    kernel = next(iter(bound.kernels[bound.cut[-1], "all"].values()))
    kinds = ("update", "factor")
    return {where for where in kernel.graph.inputs() if where.kind in kinds}


def test_no_full_update_between_parts() -> None:
    tx = gx.apollo(0.1, rank=4)
    assert inputs(tx, (40, 12)) == inputs(tx, (12, 40)) == {Input("factor")}
    assert inputs(gx.apollo_mini(0.1), (40, 12)) == {Input("factor")}
    assert inputs(tx, (9, 1)) == {Input("update")}
    assert inputs(gx.apollo(0.1, rank=4, matricize=True), (4, 3, 5)) == {Input("update")}


def test_maximize() -> None:
    params = [torch.nn.Parameter(x) for x in tensors(SHAPES, 0).values()]
    other = [torch.nn.Parameter(p.detach().clone()) for p in params]
    up = gx.optim.APOLLO(params, lr=0.1, rank=4, maximize=True)
    down = gx.optim.APOLLO(other, lr=0.1, rank=4)
    for t in range(3):
        for p, q, g in zip(params, other, tensors(SHAPES, t + 1).values(), strict=True):
            p.grad, q.grad = -g, g.clone()
        up.step()
        down.step()
    assert_same([p.detach() for p in params], [p.detach() for p in other])
