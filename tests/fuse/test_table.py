"""Fused chains give what pure ones give: counters, dtypes, shapes, and leaves that miss."""

import pytest
import torch

import gradtx as gx
from tests.fuse.helpers import assert_same, run_both
from tests.table import ROWS, Row


def whole(x: torch.Tensor) -> torch.Tensor | None:
    return x if x.ndim == 0 and not x.is_floating_point() else None


@pytest.mark.parametrize("row", ROWS[::4], ids=lambda row: row.id)
def test_counters_end_as_the_pure_ones_do(row: Row) -> None:
    fused, pure, _ = run_both(row.make(), steps=2, counts=2**31 - 1)
    assert_same(fused, pure, rtol=1e-3, atol=1e-5)  # numbers as near to 1 as these lose digits
    assert_same(*(gx.tree.map(whole, state) for _, state in (fused, pure)), rtol=0, atol=0)


CHAINS = {
    "clipped adamw": lambda: gx.chain(gx.clip_by_global_norm(0.5), gx.adamw(0.1)),
    "cautious": lambda: gx.chain(gx.scale_by_adam(), gx.cautious_mask(), gx.scale(-0.1)),
    "scheduled": lambda: gx.adamw(gx.schedules.linear(0.1, 0.0, 3)),
    "skipping": lambda: gx.apply_if_finite(gx.adamw(0.1)),
    "accumulating": lambda: gx.multi_steps(gx.lion(0.1), every_k=2),
    "low moments": lambda: gx.chain(
        gx.scale_by_adam(mu_codec=torch.bfloat16, nu_codec=torch.bfloat16), gx.scale(-0.1)
    ),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", CHAINS)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    fused, pure, step = run_both(CHAINS[name](), dtype=dtype)
    tolerance = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float64: 1e-9}[dtype]
    if name == "low moments":
        tolerance = 2e-2  # a moment may round the other way
    assert_same(fused, pure, rtol=tolerance, atol=tolerance / 10)
    assert step.report() == "everything is fused"


@pytest.mark.parametrize("name", CHAINS)
def test_shapes(name: str) -> None:
    shapes = {
        **{"scalar": (), "empty": (0,), "empty_matrix": (3, 0), "one": (1,), "ones": (1, 1)},
        **{"row": (1, 9), "column": (9, 1), "odd": (1031,), "four": (2, 3, 1, 5)},
        **{"two_chunks": (33000,), "block": (1024,), "blocks": (3, 1024)},
    }
    fused, pure, step = run_both(CHAINS[name](), shapes)
    assert_same(fused, pure)
    assert step.report() == "everything is fused"


def test_mixed_dtypes_share_a_global_norm() -> None:
    tx = gx.chain(gx.clip_by_global_norm(0.5), gx.scale(-1.0))
    generator = torch.Generator().manual_seed(0)
    grads = {
        "a": torch.randn(50, generator=generator),
        "b": torch.randn(6, 7, generator=generator).bfloat16(),
        "c": torch.randn(40, generator=generator).double(),
        "d": None,
    }
    params = {k: torch.zeros(3) if g is None else torch.zeros_like(g) for k, g in grads.items()}
    updates, _ = tx.update(grads, tx.init(params), params)
    want = gx.apply_updates(params, updates)
    step = gx.fuse(tx)
    got, _ = step(params, grads, tx.init(params))
    assert_same(got, want, rtol=1e-5)
    assert got["d"].eq(0).all()
    assert step.report() == "everything is fused"


@pytest.mark.parametrize("shape", [(3,), (5, 4)])
def test_a_leaf_does_not_need_to_take_part_in_a_tree_reduction(shape: tuple[int, ...]) -> None:
    inner = gx.chain(gx.clip_by_global_norm(0.1), gx.trace(0.9))
    tx = gx.partition(
        {"matrix": inner, "other": gx.scale(-0.5)},
        by=lambda info: "matrix" if info.ndim == 2 else "other",
    )
    fused, pure, step = run_both(tx, {"a": shape, "b": (6, 6), "c": (7,)})
    assert_same(fused, pure)
    assert step.report() == "everything is fused"


def test_frozen_leaves_count_in_a_global_norm() -> None:
    tx = gx.chain(gx.clip_by_global_norm(0.1), gx.freeze({"a": True, "b": False}))
    fused, pure, step = run_both(tx, {"a": (50,), "b": (4,)})
    assert_same(fused, pure)
    assert step.report() == "everything is fused"
