"""The gradient window and what it preconditions, against matrices that are formed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import gradtx as gx

SHAPES = {"b": (5,), "conv": (3, 2, 2, 2), "s": (), "w": (6, 4)}


def tree(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(s, generator=generator) for k, s in SHAPES.items()}


def vector(x: dict[str, Tensor]) -> Tensor:
    return torch.cat([v.double().reshape(-1) for v in x.values()])


def fisher(rows: list[Tensor], damping: float, divisor: int) -> Tensor:
    matrix = torch.stack(rows)
    eye = torch.eye(matrix.shape[1], dtype=torch.float64)
    return damping * eye + matrix.mT @ matrix / divisor


def relative(got: Tensor, want: Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


@pytest.mark.parametrize("normalize", ["capacity", "count"])
def test_products_with_the_fisher_matrix(normalize):
    window, rows = gx.gradient_window(4, normalize=normalize), []
    state = window.init(tree(0))
    for t in range(6):
        state = window.push(state, tree(t + 1))
        rows = [*rows, vector(tree(t + 1))][-4:]
        matrix = fisher(rows, 0.1, 4 if normalize == "capacity" else len(rows))
        x = tree(50 + t)
        inverse = matrix.inverse()
        assert relative(vector(window.product(state, x, 0.1)), matrix @ vector(x)) < 1e-6
        got = window.inverse_vector_product(state, x, 0.1)
        assert relative(vector(got), inverse @ vector(x)) < 1e-5
        got = window.newest_inverse_product(state, 0.1, x)
        assert relative(vector(got), inverse @ rows[-1]) < 1e-6
        assert relative(vector(window.inverse_diagonal(state, 0.1, x)), inverse.diagonal()) < 1e-6


@pytest.mark.parametrize(
    "compressor",
    [
        gx.compressors.top_k(0.3),
        gx.compressors.block_top_k(0.3, 7),
        gx.compressors.low_rank(2, always=True),
    ],
)
def test_compressed_rows_are_what_they_stand_for(compressor):
    """The same numbers as a dense window of the same vectors."""
    kept, dense = gx.gradient_window(3, compressor), gx.gradient_window(3)
    state, same = kept.init(tree(0)), dense.init(tree(0))
    memory = {k: compressor.init(v, k) for k, v in tree(0).items()}
    for t in range(5):
        payload = {k: compressor.compress(v, memory[k])[0] for k, v in tree(t).items()}
        state = kept.push(state, payload)
        same = dense.push(same, gx.tree.map(compressor.decompress, payload))
        torch.testing.assert_close(state.gram, same.gram, rtol=1e-5, atol=1e-6)
    x = tree(9)
    for name in ("inverse_vector_product", "product"):
        got, want = (getattr(w, name)(s, x, 0.1) for w, s in ((kept, state), (dense, same)))
        assert relative(vector(got), vector(want)) < 1e-5
    got, want = (w.inverse_diagonal(s, 0.1, x) for w, s in ((kept, state), (dense, same)))
    assert relative(vector(got), vector(want)) < 1e-5


@pytest.mark.parametrize("window", [8, 32])
def test_small_damping_costs_no_digits(window):
    """Correlated gradients at a damping of 1e-7, against float64."""
    torch.manual_seed(0)
    common, rows, worst = torch.randn(235) / 15, [], 0.0
    tx = gx.precondition_mfac(window, 1e-7)
    state = tx.init({"w": common})
    for _ in range(40):
        g = common + 0.02 * torch.randn(235)
        u, state = tx.update({"w": g}, state)
        rows = [*rows, g.double()][-window:]
        want = torch.linalg.solve(fisher(rows, 1e-7, window), rows[-1])
        worst = max(worst, relative(u["w"].double(), want))
    assert worst < 2e-6


def test_a_leaf_without_gradient_counts_as_zero():
    tx, rows = gx.precondition_mfac(2, 0.1), []
    state = tx.init(tree(0))
    for t in range(5):
        missing = "w" if t in (1, 2) else "b" if t == 4 else ""
        grads = {k: None if k == missing else v for k, v in tree(t).items()}
        full = {k: torch.zeros(SHAPES[k]) if v is None else v for k, v in grads.items()}
        out, state = tx.update(grads, state)
        rows = [*rows, vector(full)][-2:]
        want = torch.linalg.solve(fisher(rows, 0.1, 2), rows[-1])
        there = vector({k: torch.full(s, k != missing) for k, s in SHAPES.items()}).bool()
        assert out.get(missing) is None
        got = torch.cat([v.double().reshape(-1) for v in out.values() if v is not None])
        assert relative(got, want[there]) < 1e-5


def test_blocks_are_mapped_over():
    """A Fisher matrix of every block of a vector."""
    window, grads = gx.gradient_window(3), torch.randn(5, 4, 6)  # pushes, blocks, elements
    state = torch.vmap(window.init)(grads[0])
    for g in grads:
        state = torch.vmap(window.push)(state, g)
    x = torch.randn(4, 6)
    got = torch.vmap(lambda s, v: window.inverse_vector_product(s, v, 0.5))(state, x)
    for i in range(4):
        want = torch.linalg.solve(fisher(list(grads[2:, i].double()), 0.5, 3), x[i].double())
        assert relative(got[i].double(), want) < 1e-5


def test_bfloat16_rows_have_a_gram_of_their_own():
    window = gx.gradient_window(3, dtype=torch.bfloat16)
    state = window.init(tree(0))
    for t in range(4):
        state = window.push(state, tree(t))
    rows = torch.cat([leaf.rows.values for leaf in state.leaves.values()], 1).double()
    torch.testing.assert_close(state.gram, rows @ rows.mT, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eps", [1e-1, 1e-4, 1e-8])
def test_ggt_loses_no_digits(eps):
    torch.manual_seed(0)
    tx, rows = gx.precondition_ggt(6, b2=0.9, eps=eps, query="newest"), []
    state = tx.init({"w": torch.zeros(235)})
    common = torch.randn(235) / 15
    for _ in range(10):
        g = common + 0.02 * torch.randn(235)
        u, state = tx.update({"w": g}, state)
        rows = [g.double(), *rows][:6]
        basis = torch.stack([0.9**age * row for age, row in enumerate(rows)])  # (r, d)
        values, vectors = torch.linalg.eigh(basis @ basis.mT + 1e-6 * torch.eye(len(rows)).double())
        s = values.sqrt()
        weights = vectors @ (((1 + 1e-6 / (s * eps)) / (s + eps)) * vectors[0])
        assert relative(u["w"].double(), weights @ basis) < 1e-5


BAD = {
    "window": lambda: gx.precondition_mfac(0),
    "damping": lambda: gx.mfac(damping=0.0),
    "weight_decay_kind": lambda: gx.mfac(weight_decay_kind="l2"),
    "momentum_kind": lambda: gx.mfac(momentum_kind="nesterov"),
    "compressor": lambda: gx.precondition_mfac(3, compressor="top_k"),
    "density": lambda: gx.sparse_mfac(density=0.0),
    "freeze_zeros": lambda: gx.sparse_mfac(freeze_zeros=True),
    "rank": lambda: gx.lowrank_mfac(rank=0),
    "gram_reg": lambda: gx.ggt(gram_reg=0.0),
    "eps": lambda: gx.ggt(eps=0.0),
    "b2": lambda: gx.ggt(b2=1.5),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options(name):
    with pytest.raises((ValueError, TypeError), match=name):
        BAD[name]()


def test_a_window_that_takes_too_much():
    """Refused at init, with its bytes and how many rows there would be room for."""
    params = {"v": torch.zeros(10), "w": torch.zeros(30, 20)}
    row = 4 * 610 + 2 * 4
    for most, room in ((20 * row + 8 * 20**2, 20), (20 * row + 8 * 20**2 - 1, 19)):
        tx = gx.mfac(window=100, max_bytes=most)
        wanted = 100 * row + 8 * 100**2
        text = f"100 rows take {wanted} bytes, max_bytes is {most}: there is room for {room}$"
        with pytest.raises(ValueError, match=f"precondition_mfac: {text}"):
            tx.init(params)
        state = gx.mfac(window=room, max_bytes=most).init(params)["precondition_mfac"]
        held = sum(x.nbytes for x in gx.tree.leaves(state))
        assert held - 4 <= most  # and a counter
    for tx in (
        gx.lowrank_mfac(window=10, aggregate=False, max_bytes=row),
        gx.ggt(window=10, max_bytes=row),
        gx.sparse_mfac(window=1000, density=0.01, max_bytes=row),
    ):
        with pytest.raises(ValueError, match=r"there is room for|there is no room for one"):
            tx.init(params)
    window = gx.gradient_window(3, max_bytes=row)
    with pytest.raises(ValueError, match=r"gradient_window: .* there is no room for one"):
        window.init(params)
    gx.gradient_window(3, max_bytes=4 * row).init(params)


def test_bad_values():
    grads = {"w": torch.ones(4)}
    tx = gx.mfac(0.1, 3, gx.schedules.linear(0.1, 0.0, 1))
    state = tx.init(grads)
    _, state = tx.update(grads, state, grads)
    with pytest.raises(ValueError, match=r"damping must be in \(0, inf\), got 0.0"):
        tx.update(grads, state, grads)
    tx = gx.sparse_mfac(0.1, 3, density=0.5)
    with pytest.raises(ValueError, match="leaf 'w': the update has a NaN or an infinity"):
        tx.update({"w": torch.tensor([1.0, torch.nan, 0.0, 0.0])}, tx.init(grads), grads)
    tx = gx.sparse_mfac(0.1, 3, density=0.1, scope="global")
    with pytest.raises(ValueError, match="keeps none of 4 entries"):
        tx.update(grads, tx.init(grads), grads)
    tx = gx.mfac(0.1, 3, freeze_zeros=True)
    with pytest.raises(ValueError, match="all parameters were zero"):
        tx.update(grads, tx.init({"w": torch.zeros(4)}), grads)
    keep = gx.compressors.top_k(0.5)
    tx = gx.precondition_mfac(3, compressor=keep)
    with pytest.raises(gx.TreeMismatchError, match="need the same compressor"):
        tx.update(grads, tx.init(grads))


def test_skipped_steps_leave_the_window_alone():
    tx, grads = gx.mfac(0.1, 3, 0.1, nonfinite="skip"), {"w": torch.ones(4)}
    _, state = tx.update(grads, tx.init(grads), grads)
    out, new = tx.update({"w": torch.full((4,), torch.inf)}, state, grads)
    assert not out["w"].any()
    assert torch.equal(gx.tree.get(new, "gram"), gx.tree.get(state, "gram"))


def test_frozen_zeros_stay_zero_and_take_no_room():
    params = {"w": torch.tensor([1.0, 0.0, 2.0]), "b": torch.zeros(2)}
    tx = gx.mfac(0.1, 2, 0.1, freeze_zeros=True)
    state = tx.init(params)
    out, state = tx.update(gx.tree.map(torch.ones_like, params), state, params)
    assert gx.tree.get(state, "values").shape == (2, 2)
    assert out["w"][0] != 0
    assert out["w"][1] == 0
    assert not out["b"].any()


def test_coupled_decay_is_in_the_gradient_that_is_asked_for():
    """Sparse M-FAC with query="gradient": F^-1 (g + weight_decay p), whole, not compressed."""
    params, grads = tree(0), tree(1)
    tx = gx.sparse_mfac(
        None,
        2,
        0.1,
        0.5,
        weight_decay=0.3,
        scope="global",
        weight_decay_kind="coupled",
        query="gradient",
    )
    updates, _ = tx.update(grads, tx.init(params), params)
    whole = vector(grads) + 0.3 * vector(params)
    kept = torch.zeros_like(whole)
    largest = whole.abs().topk(len(whole) // 2).indices
    kept[largest] = whole[largest]
    assert relative(vector(updates), fisher([kept], 0.1, 2).inverse() @ whole) < 1e-5
