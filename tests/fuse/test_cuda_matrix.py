"""Leaves as matrices in generated CUDA C++, run on the CPU: rows, columns and sign bits."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

import gradtx as gx
from gradtx.fuse.cuda.prelude import ENTRIES, WIDTH
from gradtx.fuse.cuda.source import CudaSource
from gradtx.fuse.ir.errors import CannotFuseError
from gradtx.fuse.ir.graph import Graph, Input, Node
from gradtx.fuse.ir.stages import plan_stages
from gradtx.fuse.ir.view import matrix
from tests.fuse.cuda_emulator import Emulated
from tests.fuse.helpers import assert_same, run_both, tensors
from tests.fuse.test_matrix import CHAINS, FUSED, MATRICES, TOLERANCE, R, factored_adam, run_nan

SHAPES = {
    **{"scalar": (), "empty": (0,), "no_rows": (0, 3), "no_columns": (3, 0), "ones": (1, 1)},
    **{"row": (1, 9), "column": (9, 1), "prime": (331,), "deep": (2, 3, 1, 5), "one": (1,)},
    **{
        "tall": (141, 7),
        "wide": (3, 2 * WIDTH + 13),
        "tile": (64, WIDTH),
        "tiles": (67, WIDTH + 9),
    },
}
RECIPES: dict[str, Callable[[], gx.GradientTransformation]] = {
    "adam": lambda: gx.recipes.adam_adv(0.1, factored=True, stochastic_rounding=False),
    "lion": lambda: gx.recipes.lion_adv(0.1, factored=True, stochastic_rounding=False),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CHAINS)
def test_emulated_is_pure(name: str, dtype: torch.dtype, modules: list[Emulated]) -> None:
    shapes = {k: s for k, s in SHAPES.items() if 0 not in s or name != "extremes"}
    fused, pure, step = run_both(CHAINS[name](), shapes, dtype=dtype, steps=2)
    assert step.report() == FUSED
    assert_same(fused, pure, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] / 10)


@pytest.mark.parametrize("name", MATRICES)
def test_emulated_is_pure_on_matrices(name: str, modules: list[Emulated]) -> None:
    shapes = {k: s for k, s in SHAPES.items() if len(s) < 3} | {"ties": (160, 160)}
    fused, pure, step = run_both(MATRICES[name](), shapes, steps=2)
    assert step.report() == FUSED
    assert_same(fused, pure, rtol=3e-5, atol=3e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name: str, modules: list[Emulated]) -> None:
    fused, pure, step = run_both(RECIPES[name](), {"w": (67, 40), "b": (40,)}, steps=3)
    assert step.report() == FUSED
    assert_same(fused, pure, rtol=3e-5, atol=3e-6)


def test_masks_as_bits(modules: list[Emulated]) -> None:
    phases = gx.sparsity.phases(("dense", 1), ("sparse", 2), ("dense", 1), ("sparse", 2))
    tx = gx.acdc(gx.adam(0.1), phases, 0.5, prunable=lambda info: True, mask_state=True)
    shapes = {k: s for k, s in SHAPES.items() if 0 not in s}
    fused, pure, step = run_both(tx, shapes, steps=5)
    assert step.report() == FUSED
    assert_same(fused, pure, rtol=3e-5, atol=3e-6)


@pytest.mark.parametrize("name", ["factored adam", "extremes", "unit clipping"])
def test_nothing_depends_on_the_order_of_blocks_and_threads(
    name: str, modules: list[Emulated]
) -> None:
    tx, shapes = CHAINS[name](), {"a": (130, WIDTH + 30), "b": (5, 3)}
    results = []
    for backwards in (False, True):
        step, params = gx.fuse(tx), tensors(shapes, 0)
        state = tx.init(params)
        step(params, tensors(shapes, 1), state)
        for module in modules:
            module.backwards = backwards
        step(params, tensors(shapes, 2), state)
        results.append((params, state))
    assert_same(*results, rtol=0, atol=0)


def test_as_many_launches_for_many_leaves(modules: list[Emulated]) -> None:
    tx = factored_adam()
    shapes = {str(i): (i % 7 + 2, i % 11 + 2) for i in range(60)}
    params = tensors(shapes, 0)
    state, step, grads = tx.init(params), gx.fuse(tx), tensors(shapes, 1)
    step(params, grads, state)
    (module,) = {id(m): m for m in modules if "gx_tasks" in m.launches}.values()
    module.launches.clear()
    step(params, grads, state)
    values = ["vectors_1", "scalars_1_1", "vectors_1_2"]
    assert module.launches == ["scalars_0", "pass_0", *values, "commit_leaf", "commit_vectors"]


@pytest.mark.parametrize("shape", [(20_000, 8), (3, 30_000), (1100, WIDTH + 1)])
def test_sums_over_many_tiles_are_accurate(shape: tuple[int, ...], modules: list[Emulated]) -> None:
    tx = gx.chain(gx.ema(0.0, debias=False, codec=R(signs=False)), gx.scale(0.0))
    g = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.5
    step, params = gx.fuse(tx), {"w": torch.zeros(shape)}
    state = tx.init(params)
    step(params, {"w": g}, state)
    assert step.report() == FUSED
    (row, col, *_) = next(x for x in state.values() if x)["w"].ema
    want = g.double().reshape(matrix("square", shape))
    torch.testing.assert_close(row.double(), want.sum(1), rtol=3e-7, atol=0)
    torch.testing.assert_close(col.double(), want.sum(0) / want.sum(), rtol=3e-7, atol=0)


@pytest.mark.parametrize("columns", [5, 10, 32, 33, WIDTH, WIDTH + 3])
def test_signs_are_packed_as_by_the_operator(columns: int, modules: list[Emulated]) -> None:
    tx = gx.chain(gx.ema(0.5, codec=gx.codecs.rank1()), gx.scale(-1.0))
    shape = (columns + 6, columns)  # the nearest matrix to a square, unless its factors are nearer
    assert matrix("square", shape)[1] <= columns
    step, params, grads = gx.fuse(tx), tensors({"w": shape}, 0), tensors({"w": shape}, 1)
    state = tx.init(params)
    step(params, grads, state)
    sign = next(x for x in state.values() if x)["w"].ema.sign
    seen = grads["w"].reshape(matrix("square", shape))
    assert torch.equal(sign, torch.ops.gradtx.pack_signs(seen))


def test_not_a_number_reaches_its_row_and_column_only(modules: list[Emulated]) -> None:
    params, grads = {"w": torch.zeros(40, 30)}, tensors({"w": (40, 30)}, 1)
    grads["w"][7, 5] = torch.nan
    step = gx.fuse(CHAINS["centralized"]())
    step(params, grads, step.transform.init(params))
    assert params["w"].isnan().any(1).nonzero().flatten().tolist() == [7]
    fused, pure, step = run_nan(CHAINS["extremes"]())
    assert step.report() == FUSED
    assert_same(fused, pure)


def test_no_kernel_for_other_sizes(modules: list[Emulated]) -> None:
    step = gx.fuse(factored_adam())
    compiled = set()
    for n in range(2, 3 * ENTRIES, 17):
        shapes = {str(i): (n + i, 3 + n % 5) for i in range(1 + n % 3)}
        params = tensors(shapes, 0)
        step(params, tensors(shapes, n), step.transform.init(params))
        compiled = compiled or {id(m) for m in modules}
        assert {id(m) for m in modules} == compiled
    assert step.report() == FUSED


# -- what has no form here ------------------------------------------------------------------------

GRAD = Node("input", (), "float32", "element", Input("grad"))
UNKNOWN = {
    "operation": Node("twist", (0,), "float32", "element", None, "member"),
    "form": Node("neg", (0,), "float32", "every 7", None, "member"),
    "dtype": Node("cast", (0,), "complex64", "element", None, "member"),
    "input": Node("input", (), "float32", "element", Input("weather"), "member"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_unknown_nodes_are_refused(what: str) -> None:
    node = UNKNOWN[what]
    graph = Graph((GRAD, node), ((Input("param"), 1),))
    with pytest.raises(CannotFuseError, match=rf"member: {node.op} .*on CUDA devices"):
        CudaSource(plan_stages(graph, {}))


def test_known_nodes_are_not_refused() -> None:
    graph = Graph((GRAD, Node("neg", (0,), "float32", "element")), ((Input("param"), 1),))
    text = CudaSource(plan_stages(graph, {})).text
    assert re.search(r"GX_KERNEL pass_0", text)
