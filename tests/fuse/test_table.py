"""Every row of the table: fused gives what the pure chain gives."""

from typing import Any

import pytest
import torch

import gradtx as gx
import gradtx_cuda
from tests.fuse.helpers import SHAPES, assert_same, run_both, step_both, tensors
from tests.table import ROWS, Row
from tests.table_compression import ROWS as COMPRESSION
from tests.table_spectral import ROWS as SPECTRAL
from tests.table_subspace import ROWS as SUBSPACE
from tests.table_windows import ROWS as WINDOWS

# Rows that run as torch operations, wholly or in part, with a word of the reason.
_OTHER_SHAPE = "no scalar, leaf, row or column"
_DEEP = "another matrix"  # of leaves with three dimensions, rows over the first and the last one
UNFUSED = {
    "flatten": _OTHER_SHAPE,
    "add_noise": _OTHER_SHAPE,
    "monitor": "different numbers",  # its metrics are over the whole tree, outside reduce
    "snapshot": "different numbers",
    "scale_by_factored_rms": _DEEP,
    "scale_by_factored_rms-floor": _OTHER_SHAPE,
    "scale_by_sm3": _DEEP,
    "scale_by_sm3-average": _DEEP,
    "adafactor": _DEEP,
    "adafactor-relative": _DEEP,
    "sm3": _DEEP,
}
_MIXED = ("-codecs", "-mixed")
UNFUSED |= {row.id: "blocks of a matrix" for row in ROWS if row.id.endswith(_MIXED)}
UNFUSED["galore_adamw8bit"] = "constant tensor"
_FUSED = {
    *("apply_if_leaf_finite-skip", "decay_first", "round_updates"),
    *("compress-identity", "compress-threshold"),
    *("decay_after", "limit_norm_growth", "scale_by_bias_factor", "galore_adamw-dense"),
    *("root_subset_norm-runs", "root_subset_norm-leaf", "snsm-momentum", "adamw_sn"),
    *("scale_by_subset_norm-matrix", "scale_by_subset_norm-entries"),
}
UNFUSED |= {row.id: "compressed state" for row in COMPRESSION if row.id not in _FUSED}
UNFUSED["apply_if_leaf_finite"] = "reads it on the host"
UNFUSED |= {row.id: "subspaces, or subsets" for row in SUBSPACE if row.id not in _FUSED}
if gradtx_cuda.status().active:
    del UNFUSED["microadam"]
_FUSED = {
    *("add_decayed_weights-cautious", "as_matrices", "ema-nesterov", "ema-raw_nesterov"),
    *("normalize_neurons", "split_rows"),
}
UNFUSED |= {row.id: "products of matrices" for row in SPECTRAL if row.id not in _FUSED}
UNFUSED |= {row.id: "a window of rows" for row in WINDOWS}


def check_not_finite(tx: gx.GradientTransformation, step: Any, fused: Any, pure: Any) -> None:
    """NaN and infinity go where they go in the pure chain, in one leaf of three."""
    for t, bad in enumerate((torch.inf, torch.nan)):
        grads = tensors(SHAPES, 10 + t)
        grads["w"][1 + t, 2] = bad
        try:
            fused, pure = step_both(tx, step, fused, pure, grads)
        except ValueError:  # that is what it is asked to do
            with pytest.raises(ValueError, match="leaf 'w'"):
                step(fused[0], grads, fused[1])
            continue
        assert_same(fused, pure, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_fused_is_pure(row: Row) -> None:
    fused, pure, step = run_both(row.make())
    assert_same(fused, pure)
    check_not_finite(row.make(), step, fused, pure)
    if row.id in UNFUSED:
        assert step.report() != "everything is fused"
    elif row.id != "identity":
        assert step.report() == "everything is fused"


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
        gx.scale_by_adam(mu_dtype=torch.bfloat16, nu_dtype=torch.bfloat16), gx.scale(-0.1)
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
