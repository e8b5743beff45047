"""Norms of a gradient times a factor, from norms that the projection takes on its way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import gradtx as gx
from gradtx.fuse.ir.graph import Graph, Input, Node
from gradtx.fuse.ir.squares import with_squares
from gradtx.ops.coordinates import has_squares
from tests.fuse.helpers import assert_same, run_both, tensors

SHAPES = {"tall": (40, 12), "wide": (12, 40), "square": (12, 12), "thin": (9, 1), "b": (7,)}
SQUARES = Input("squares")
CHAINS: dict[str, Callable[[], gx.GradientTransformation]] = {
    "channels": lambda: gx.apollo(0.1, rank=4, update_proj_gap=2),
    "scaled before": lambda: gx.apollo(0.1, rank=4, scale=2.0, scale_front=True),
    "tensor": lambda: gx.apollo_mini(0.1, update_proj_gap=2),
    "all dimensions": lambda: gx.apollo(0.1, rank=12),
    "left": lambda: gx.apollo(0.1, rank=4, proj_type="left", scale_type="tensor"),
}
needs_kernel = pytest.mark.skipif(not has_squares(torch.ones(1)), reason="there is no kernel")


def graph_of(
    tx: gx.GradientTransformation, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Graph:
    """What the last part computes."""
    step, params = gx.fuse(tx), tensors({"w": shape}, 0, dtype)
    bound = step.engine.describe(step.engine.gather(params, params, tx.init(params)))
    return next(iter(bound.kernels[bound.cut[-1], "all"].values())).graph


def _norms(state: object) -> list[torch.Tensor]:
    return list(gx.tree.get_all(state, "norm").values())


@pytest.mark.parametrize("size", [1e-24, 1e-12, 1.0, 1e12, 1e17])
@pytest.mark.parametrize("name", CHAINS)
def test_fused_is_pure(name: str, size: float) -> None:
    tx = CHAINS[name]()
    step, params, pure = gx.fuse(tx), tensors(SHAPES, 0), tensors(SHAPES, 0)
    state, pure_state = tx.init(params), tx.init(pure)
    for t, growth in enumerate((0.0, 1.0, 3.0, 0.5, 0.0, 1.0)):
        grads = {k: growth * size * g for k, g in tensors(SHAPES, t + 1).items()}
        grads["tall"][1::2] = 0.0
        params, state = step(params, grads, state)
        updates, pure_state = tx.update(grads, pure_state, pure)
        pure = gx.apply_updates(pure, updates)
    assert_same(params, pure, 3e-5, 3e-6)
    norms, pure_norms = (_norms(s) for s in (state, pure_state))
    assert_same(norms, pure_norms, 3e-5, 0.0)


def test_one_dimension_with_channels() -> None:
    # Coordinates that cancel have few digits in common, whoever adds them up.
    assert_same(*run_both(gx.apollo(0.1, rank=1), SHAPES)[:2], 1e-2, 1e-2)


@needs_kernel
@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (12, 12)])
@pytest.mark.parametrize("name", ["channels", "scaled before", "tensor", "left"])
def test_one_pass(name: str, shape: tuple[int, ...]) -> None:
    graph = graph_of(CHAINS[name](), shape)
    assert SQUARES in graph.inputs()
    assert not any(graph.of_elements(i) for i in range(len(graph.nodes)))


def test_other_dtypes_are_gone_over_once_more() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        assert SQUARES not in graph_of(CHAINS["channels"](), (40, 12), dtype).inputs()


def test_only_sums_of_squares_of_multiples_change() -> None:
    grad = Node("input", (), "float32", "element", Input("grad"))
    param = Node("input", (), "float32", "element", Input("param"))
    factor = Node("input", (), "float32", "row", Input("factor"))

    def result(last: int, *nodes: Node) -> Graph:
        every = (grad, param, factor, *nodes, Node("leaf_sum", (last,), "float64", "scalar"))
        return with_squares(Graph(every, ((Input("state"), len(every) - 1),), 1), "row")

    def mul(a: int, b: int) -> Node:
        return Node("mul", (a, b), "float32", "element")

    assert SQUARES in result(4, mul(0, 2), mul(3, 3)).inputs()
    assert SQUARES in result(3, mul(0, 0)).inputs()
    for last, nodes in ((4, (mul(0, 1), mul(3, 3))), (3, (mul(0, 2),)), (3, (mul(1, 1),))):
        assert SQUARES not in result(last, *nodes).inputs()
