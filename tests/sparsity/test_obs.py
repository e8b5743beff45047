"""OBS pruning: against dense algebra in float64, events, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx

s = gx.sparsity
N, M, DAMP = 14, 5, 0.05


def problem() -> tuple[dict[str, Tensor], dict[str, Any], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(N, generator=generator, dtype=torch.float64)
    rows = torch.randn(M, N, generator=generator, dtype=torch.float64)
    fisher = DAMP * torch.eye(N, dtype=torch.float64) + rows.mT @ rows / M
    params = {"a": w[:6].reshape(2, 3).clone(), "free": torch.ones(2), "b": w[6:].clone()}
    masks = {"a": torch.ones(2, 3, dtype=torch.bool), "free": None}
    return params, {**masks, "b": torch.ones(8, dtype=torch.bool)}, rows, fisher


def flat(params: dict[str, Tensor]) -> Tensor:
    return torch.cat([params["a"].reshape(-1), params["b"]])


@pytest.mark.parametrize("block", [None, 4])
def test_inverse_against_dense_algebra(block) -> None:
    _, _, rows, fisher = problem()
    cut = block or N
    coupled = torch.zeros_like(fisher)
    for k in range(0, N, cut):
        coupled[k : k + cut, k : k + cut] = fisher[k : k + cut, k : k + cut]
    want = torch.linalg.inv(coupled)
    inverse = s.inverse_fisher(rows, DAMP, block)
    x = torch.arange(float(N), dtype=torch.float64)
    torch.testing.assert_close(inverse.times(x), want @ x)
    torch.testing.assert_close(inverse.diagonal(), want.diagonal())


def test_joint_correction_is_the_constrained_minimum() -> None:
    params, masks, rows, fisher = problem()
    prune = s.obs_prune(0.5, DAMP, None, update="joint")
    pruned = prune(params, masks, rows)
    w, new = flat(params), flat(pruned.params)
    drop = new == 0
    assert int(drop.sum()) == pruned.dropped == 7
    keep = ~drop
    # The model's minimum over the kept entries, with the others pinned at zero.
    inside = torch.linalg.solve(fisher[keep][:, keep], fisher[keep][:, drop] @ w[drop])
    torch.testing.assert_close(new[keep], w[keep] + inside)
    assert torch.equal(pruned.params["free"], params["free"])


def test_dead_entries_stay_dead_and_counts_add_up() -> None:
    params, masks, rows, _ = problem()
    for packed in (True, False):
        p, m, total = params, masks, 0
        for target in s.equal_ratios(0.0, 0.6, 3):
            p, m, dropped = s.obs_prune(target, DAMP, 4, packed)(p, m, rows)
            total += dropped
            zeros = flat(p) == 0
            assert int(zeros.sum()) == total == int(N * target + 1e-9)
            assert torch.equal(zeros, ~torch.cat([m["a"].reshape(-1), m["b"]]))


def test_leaf_scope_and_magnitude() -> None:
    params, masks, _, _ = problem()
    pruned = s.obs_prune(0.5, score="magnitude", update="none", scope="leaf")(params, masks)
    assert int(pruned.masks["a"].sum()) == 3
    assert int(pruned.masks["b"].sum()) == 4
    kept = params["b"][pruned.masks["b"]].abs().min()
    assert kept >= params["b"][~pruned.masks["b"]].abs().max()


def test_obc_reaches_the_joint_minimum_for_its_support() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    hessian, w = x.mT @ x, torch.randn(3, 6, generator=generator, dtype=torch.float64)
    inverse = torch.linalg.inv(hessian)
    before = inverse.clone()
    new, live = s.obc_prune(w, inverse, 2)
    assert torch.equal(inverse, before)
    for row, out, kept in zip(w, new, live, strict=True):
        want = torch.linalg.solve(hessian[kept][:, kept], (hessian @ row)[kept])
        torch.testing.assert_close(out[kept], want)
        assert int(kept.sum()) == 2


def test_iterative_obs_finds_the_support_of_a_sparse_solution() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(60, 12, generator=generator, dtype=torch.float64)
    truth = torch.zeros(12, dtype=torch.float64)
    truth[[1, 5, 9]] = torch.tensor([2.0, -3.0, 1.5], dtype=torch.float64)
    hessian = x.mT @ x / 60
    for mode in ("topk", "obs"):
        tx, p = s.iobs(3, mode), {"w": torch.zeros(12, dtype=torch.float64)}
        for _ in range(5):
            grads = {"w": hessian @ (p["w"] - truth)}
            p = gx.apply_updates(p, tx.update(grads, tx.init(p), p, matrix=hessian)[0])
        torch.testing.assert_close(p["w"], truth)
        assert int((p["w"] != 0).sum()) == 3


def test_bad_input() -> None:
    params, masks, rows, _ = problem()
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\)"):
        s.obs_prune(1.0)
    with pytest.raises(ValueError, match=r"damping must be in \(0, inf\)"):
        s.obs_prune(0.5, 0.0)
    with pytest.raises(ValueError, match="block must be an integer >= 1"):
        s.obs_prune(0.5, 0.1, 0)(params, masks, rows)
    with pytest.raises(ValueError, match="groups of 4 do not fill blocks of 6"):
        s.obs_prune(0.5, 0.1, 6, packed=False, group=4)
    with pytest.raises(ValueError, match="leaf 'a' has 6 entries, which groups of 4"):
        s.obs_prune(0.5, 0.1, 8, packed=False, group=4)(params, masks, rows)
    with pytest.raises(ValueError, match=r"gradients must be \(m, 14\), got \(5, 13\)"):
        s.obs_prune(0.5)(params, masks, rows[:, :13])
    with pytest.raises(ValueError, match="gradient 2 has a NaN"):
        s.inverse_fisher(rows.clone().index_fill(0, torch.tensor([2]), torch.nan))
    with pytest.raises(ValueError, match="leaf 'b' takes a bool tensor"):
        s.obs_prune(0.5)(params, {**masks, "b": torch.ones(8)}, rows)
    pruned = s.obs_prune(0.5, DAMP)(params, masks, rows)
    with pytest.raises(ValueError, match=r"below the present one, 0\.5"):
        s.obs_prune(0.4, DAMP)(pruned.params, pruned.masks, rows)
    with pytest.raises(ValueError, match="needs gradients"):
        s.obs_prune(0.5)(params, masks)
    with pytest.raises(ValueError, match="symmetric and positive definite"):
        s.obc_prune(torch.ones(1, 2), -torch.eye(2), 1)
    p = {"w": torch.ones(2)}
    with pytest.raises(ValueError, match="k is 20, but there are 2"):
        s.iobs(20).update(p, (), p, matrix=torch.eye(2))
    with pytest.raises(ValueError, match="pass matrix="):
        s.iobs(1).update({"w": torch.ones(2)}, (), {"w": torch.ones(2)})


def test_joint_correction_of_many_blocks_against_dense_algebra() -> None:
    generator = torch.Generator().manual_seed(4)
    n, block, m = 1000, 7, 5
    rows = torch.randn(m, n, generator=generator, dtype=torch.float64)
    w = torch.randn(n, generator=generator, dtype=torch.float64)
    drop = torch.rand(n, generator=generator) < 0.6
    change = s.inverse_fisher(rows, 0.01, block).pinned(w, drop)
    for k in range(0, n, block):
        g, q = rows[:, k : k + block], drop[k : k + block]
        fisher = 0.01 * torch.eye(g.shape[1], dtype=torch.float64) + g.mT @ g / m
        inverse = torch.linalg.inv(fisher)
        part = w[k : k + block]
        want = -inverse[:, q] @ torch.linalg.solve(inverse[q][:, q], part[q])
        torch.testing.assert_close(change[k : k + block], want, rtol=1e-8, atol=1e-10)


def test_blocks_that_are_many_are_those_one_by_one() -> None:
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(3, 90_000, generator=generator)
    whole = s.inverse_fisher(rows, 0.1, 16, sizes=[50_000, 39_990, 10])
    for start in (0, 49_984, 50_000, 89_984, 89_990):
        stop = min(start + 16, next(end for end in (50_000, 89_990, 90_000) if start < end))
        one = s.inverse_fisher(rows[:, start:stop], 0.1)
        torch.testing.assert_close(whole.diagonal()[start:stop], one.diagonal())
        x = torch.randn(90_000, generator=generator)
        torch.testing.assert_close(whole.times(x)[start:stop], one.times(x[start:stop]))


@pytest.mark.parametrize("fisher", ["model", "leaf"])
@pytest.mark.parametrize("normalize", ["capacity", "count"])
def test_a_running_window_prunes(fisher, normalize) -> None:
    params, masks, rows, _ = problem()
    tx = gx.precondition_mfac(8, DAMP, normalize=normalize, fisher=fisher, dtype=torch.float64)
    state = tx.init(params)
    for row in rows:
        grads = {"a": row[:6].reshape(2, 3), "free": torch.ones(2), "b": row[6:]}
        _, state = tx.update(grads, state)
    given = tx.gradients(state, params)
    assert given["a"].shape == (8 if normalize == "capacity" else M, 2, 3)
    zeros = torch.zeros(len(given["a"]) - M, N, dtype=torch.float64)
    prune = s.obs_prune(0.5, DAMP, 5)
    found, want = prune(params, masks, given), prune(params, masks, torch.cat([rows, zeros]))
    torch.testing.assert_close(flat(found.params), flat(want.params))
    assert torch.equal(found.masks["b"], want.masks["b"])


def test_groups_by_magnitude_go_as_a_whole() -> None:
    w = torch.tensor([9.0, 0.0, 3.0, 3.0, 1.0, 4.0, 2.0, 1.0])
    masks = {"w": torch.ones(8, dtype=torch.bool)}
    prune = s.obs_prune(0.5, block=4, packed=False, score="magnitude", update="none", group=2)
    assert prune({"w": w}, masks).params["w"].tolist() == [9.0, 0.0, 3.0, 3.0, 0, 0, 0, 0]


def test_iterative_obs_with_a_solver_of_ones_own() -> None:
    seen = {}

    def rows_of_two(w: Tensor, inverse: Any) -> Tensor:
        seen["inverse"] = inverse
        kept = gx.ops.top_mask(w.abs().reshape(2, -1), 1)
        return torch.where(kept, w.reshape(2, -1), 0).reshape(-1)

    p = {"w": torch.tensor([[3.0, -1.0], [0.5, 2.0]])}
    tx = s.iobs(project=rows_of_two)
    updates, _ = tx.update({"w": torch.zeros(2, 2)}, (), p, matrix=2 * torch.eye(4))
    assert gx.apply_updates(p, updates)["w"].tolist() == [[3.0, 0.0], [0.0, 2.0]]
    torch.testing.assert_close(seen["inverse"], 0.5 * torch.eye(4, dtype=torch.float64))
    tx.update({"w": torch.zeros(2, 2)}, (), p, fisher=torch.ones(3, 4))
    assert isinstance(seen["inverse"], s.InverseFisher)
    with pytest.raises(TypeError, match="project must be a function"):
        s.iobs(project=3)


def test_what_is_empty_or_not_finite() -> None:
    params, masks, rows, _ = problem()
    bad = rows.clone()
    bad[1, 9] = torch.inf
    with pytest.raises(ValueError, match="gradients of leaf 'b' have a NaN or an infinity"):
        s.obs_prune(0.5, DAMP)(params, masks, bad)
    grads = {"a": rows[:, :6].reshape(M, 3, 2), "free": None, "b": rows[:, 6:]}
    with pytest.raises(ValueError, match=r"leaf 'a' must be \(m, 2, 3\), got \(5, 3, 2\)"):
        s.obs_prune(0.5, DAMP)(params, masks, grads)
    with pytest.raises(ValueError, match="the weights have a NaN"):
        s.obc_prune(torch.tensor([[torch.nan, 1.0]]), torch.eye(2), 1)
    params["none"], masks["none"] = torch.zeros(0, 3), torch.ones(0, 3, dtype=torch.bool)
    pruned = s.obs_prune(0.5, DAMP)(params, masks, rows)
    assert pruned.dropped == 7
    assert pruned.params["none"].shape == (0, 3)
    only = {"none": params["none"]}
    assert s.obs_prune(0.5)(only, {"none": masks["none"]}, torch.zeros(2, 0)).dropped == 0


def test_rows_are_pruned_some_at_a_time(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    inverse, w = torch.linalg.inv(x.mT @ x), torch.randn(7, 6, generator=generator)
    whole = s.obc_prune(w, inverse, 2)
    monkeypatch.setattr("gradtx.sparsity.obc._PIECE", 80)
    parts = s.obc_prune(w, inverse, 2)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
