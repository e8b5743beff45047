from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradtx as gx
from gradtx.core.leaves import isfinite_leaf

from .strategies import seeds

SPARSE = gx.SparseUpdate(torch.tensor([0, 3]), torch.tensor([1.0, -2.0]), (2, 2))
LOW_RANK = gx.LowRankUpdate(torch.ones(2, 1), torch.tensor([[1.0], [0.0]]), (2, 2))


def test_leaf_info() -> None:
    info = gx.LeafInfo.of(torch.zeros(3, 0, 2, dtype=torch.bfloat16), "a.b")
    assert (info.name, info.shape, info.ndim, info.numel) == ("a.b", (3, 0, 2), 3, 0)
    assert (info.dtype, info.device, info.placements) == (
        torch.bfloat16,
        torch.device("cpu"),
        None,
    )
    assert gx.LeafInfo.of(torch.zeros(())).numel == 1
    assert hash(info) == hash(gx.LeafInfo.of(torch.ones(3, 0, 2, dtype=torch.bfloat16), "a.b"))
    assert gx.LeafInfo.of(SPARSE).shape == (2, 2)


@given(seeds, st.integers(0, 12), st.sampled_from([torch.int16, torch.int32, torch.int64]))
def test_sparse_round_trip(seed: int, k: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(3, 4, generator=generator)
    kept = torch.randperm(12, generator=generator)[:k]
    out = gx.SparseUpdate(kept.to(dtype), dense.reshape(-1)[kept], (3, 4)).to_dense()
    mask = torch.zeros(12, dtype=torch.bool)
    mask[kept] = True
    assert torch.equal(out, torch.where(mask.reshape(3, 4), dense, 0.0))


def test_sparse_offsets_are_block_starts() -> None:
    u = gx.SparseUpdate(
        torch.tensor([1, 0], dtype=torch.int16),
        torch.tensor([5.0, 7.0]),
        (2, 3),
        torch.tensor([0, 3]),
    )
    assert u.to_dense().tolist() == [[0.0, 5.0, 0.0], [7.0, 0.0, 0.0]]


@given(seeds, st.sampled_from(["left", "right"]))
def test_low_rank_with_a_basis(seed: int, side: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    m, n, r = 3, 4, 2
    basis = torch.randn(n if side == "right" else m, r, generator=generator)
    factor = torch.randn((m, r) if side == "right" else (r, n), generator=generator)
    want = factor @ basis.T if side == "right" else basis @ factor
    torch.testing.assert_close(gx.LowRankUpdate(factor, basis, (m, n), side).to_dense(), want)


@given(seeds, st.sampled_from(["left", "right"]))
def test_low_rank_with_indices_is_a_selection(seed: int, side: str) -> None:
    """Selected rows or columns are a basis of unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    m, n, r = 3, 4, 2
    size = n if side == "right" else m
    chosen = torch.randperm(size, generator=generator)[:r]
    factor = torch.randn((m, r) if side == "right" else (r, n), generator=generator)
    basis = torch.eye(size)[:, chosen]
    want = gx.LowRankUpdate(factor, basis, (m, n), side).to_dense()
    assert torch.equal(gx.LowRankUpdate(factor, chosen, (m, n), side).to_dense(), want)


@pytest.mark.parametrize("u", [SPARSE, LOW_RANK], ids=["sparse", "low_rank"])
def test_linear_transforms_take_structured_updates(u: gx.SparseUpdate | gx.LowRankUpdate) -> None:
    for tx, factor in (
        (gx.scale(-2.0), -2.0),
        (gx.scale(torch.tensor(-2.0)), -2.0),
        (gx.scale_by_learning_rate(0.5), -0.5),
        (gx.scale_by_schedule(0.5), 0.5),
    ):
        out, _ = tx.update({"w": u}, tx.init({"w": torch.zeros(2, 2)}), {"w": torch.zeros(2, 2)})
        assert type(out["w"]) is type(u)
        torch.testing.assert_close(out["w"].to_dense(), factor * u.to_dense())


@pytest.mark.parametrize("u", [SPARSE, LOW_RANK], ids=["sparse", "low_rank"])
@pytest.mark.parametrize(
    "tx",
    [
        gx.trace(0.9),
        gx.scale_by_adam(),
        gx.clip_by_global_norm(1.0),
        gx.add_decayed_weights(0.1),
        gx.apply_if_finite(gx.trace(0.9)),
        gx.skip_large_updates(gx.trace(0.9), max_norm=1.0),
        gx.masked(gx.trace(0.9), lambda info: True),
        gx.lookahead(gx.trace(0.9)),
    ],
    ids=lambda tx: tx.name,
)
def test_others_reject_structured_updates(
    tx: gx.GradientTransformation, u: gx.SparseUpdate | gx.LowRankUpdate
) -> None:
    params = {"w": torch.zeros(2, 2)}
    with pytest.raises(gx.UnsupportedLeafError, match=r": leaf 'w': .*gx\.densify\(\)") as caught:
        tx.update({"w": u}, tx.init(params), params)
    assert type(u).__name__ in str(caught.value)


@pytest.mark.parametrize("u", [SPARSE, LOW_RANK], ids=["sparse", "low_rank"])
def test_densify_and_freeze(u: gx.SparseUpdate | gx.LowRankUpdate) -> None:
    params = {"w": torch.zeros(2, 2), "b": torch.zeros(1)}
    updates = {"w": u, "b": torch.ones(1)}
    tx = gx.chain(gx.scale(2.0), gx.densify(), gx.trace(0.9))
    out, _ = tx.update(updates, tx.init(params), params)
    torch.testing.assert_close(out["w"], 2 * u.to_dense())
    assert out["b"].item() == 2.0
    frozen, _ = gx.freeze({"w": True, "b": False}).update(updates, (), params)
    new = gx.apply_updates(params, frozen)
    assert torch.equal(new["w"], params["w"])
    assert new["b"].item() == 1.0


def test_half_precision_structured_updates_are_widened() -> None:
    half = SPARSE.map(lambda x: x.to(torch.bfloat16))
    out, _ = gx.scale(1.0).update({"w": half}, ())
    assert out["w"].values.dtype == torch.float32


def test_wrong_shape_of_a_structured_update() -> None:
    with pytest.raises(gx.TreeMismatchError, match=r"scale: leaf 'w'.*\(2, 2\).*\(4, 4\)"):
        gx.scale(1.0).update({"w": SPARSE}, (), {"w": torch.zeros(4, 4)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_one_number_that_is_not_finite_is_found(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    for count in (1, 15, 40, 4099):
        x = torch.linspace(-1, 1, count, dtype=torch.float64).to(dtype)
        x[0], x[-1] = -largest, largest
        assert bool(isfinite_leaf(x))
        for at in {0, count // 2, count - 1}:
            for bad in (torch.nan, torch.inf, -torch.inf):
                y = x.clone()
                y[at] = bad
                assert not isfinite_leaf(y)
    assert bool(isfinite_leaf(x[:0]))


def test_finite_examples_of_a_map() -> None:
    x = torch.tensor([[1.0, torch.nan], [1.0, 2.0]], dtype=torch.float32)
    assert torch.func.vmap(isfinite_leaf)(x).tolist() == [False, True]
