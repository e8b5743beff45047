"""First members that overwrite their state, and low-rank updates multiplied out by rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.fuse.runtime import late
from tests.fuse.helpers import assert_same, copy, run_both, tensors

SHAPES = {"tall": (40, 12), "wide": (12, 40), "square": (12, 12), "thin": (9, 1), "b": (7,)}
CHAINS: dict[str, Callable[..., gx.GradientTransformation]] = {
    "ldadam": lambda lr=0.1: gx.ldadamw(lr, rank=4, weight_decay=0.1),
    "galore": lambda lr=0.1: gx.galore_adamw(lr, rank=4, update_proj_gap=2, weight_decay=0.1),
    "in a cosine basis": lambda lr=0.1: gx.chain(
        gx.in_subspace(gx.subspace.dct(4, clip_rank=True), gx.scale_by_adam()),
        gx.scale_by_learning_rate(lr),
    ),
    "trion": lambda lr=0.1: gx.trion(lr, rank=4, weight_decay=0.1),
    "trion, float64 sums": lambda lr=0.1: gx.trion(lr, rank=4, codec=torch.float64),
    "dion2": lambda lr=0.1: gx.dion2(lr),
    "dct_adamw": lambda lr=0.1: gx.dct_adamw(lr, rank=4, use_ef=True, ef_bits=8),
    "apollo": lambda lr=0.1: gx.apollo(lr, rank=4, update_proj_gap=2, weight_decay=0.1),
}


@pytest.fixture(params=[late._PIECE, 100, 1])
def piece(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "_PIECE", request.param)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", CHAINS)
def test_fused_is_pure(name: str, dtype: torch.dtype) -> None:
    rtol = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float64: 1e-9}[dtype]
    fused, pure, step = run_both(CHAINS[name](), SHAPES, dtype=dtype)
    assert_same(fused, pure, rtol, rtol / 10)
    assert any(piece.strategy.name == "late" for piece in step.engine._plan.pieces)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("shapes", [SHAPES, {"w": (40, 12)}], ids=["several", "one"])
@pytest.mark.parametrize("name", CHAINS)
def test_what_leaves_share_moves_once(name: str, shapes: dict[str, Any]) -> None:
    tx = CHAINS[name](lambda t: 0.1 / (t + 1.0))
    assert_same(*run_both(tx, shapes)[:2], 1e-4, 1e-5)


def test_sums_stay_where_they_are() -> None:
    step = gx.fuse(gx.ldadamw(0.1, rank=4))
    params = tensors({"w": (40, 12)}, 0)
    state = step.transform.init(params)
    before = [x.data_ptr() for x in gx.tree.leaves(state)]
    for t in range(3):
        params, state = step(params, tensors({"w": (40, 12)}, t + 1), state)
    assert [x.data_ptr() for x in gx.tree.leaves(state)] == before
    assert state["scale_by_ldadam"]["w"].total.abs().max() > 0


@pytest.mark.parametrize("name", ["galore", "apollo"])
def test_what_is_inside_is_compiled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step, params = gx.fuse(CHAINS[name]()), tensors(SHAPES, 0)
    state = step.transform.init(params)
    params, state = step(params, tensors(SHAPES, 1), state)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("runs as torch operations")

    for piece in [b for b in step.engine._plan.pieces if b.strategy.name == "late"]:
        ((_, member),) = piece.strategy.prepare.__self__.member.members
        monkeypatch.setattr(type(member.transform._engine.tx), "update", refuse)
    step(params, tensors(SHAPES, 2), state)


def test_inside_with_parameters_of_its_own() -> None:
    def update(u: Any, s: Any, p: Any, **extra: Any) -> tuple[Any, Any]:
        return (u if p is None else gx.tree.map(torch.zeros_like, u)), s

    inner = gx.transformation(lambda p: (), update)
    tx = gx.chain(
        gx.in_subspace(gx.subspace.gaussian(3, clip_rank=True), inner),
        gx.scale_by_learning_rate(0.1),
    )
    assert_same(*run_both(tx, {"w": (12, 8)})[:2])


def test_nothing_changes_when_a_step_is_refused() -> None:
    step, params = gx.fuse(gx.ldadamw(0.1, rank=4)), tensors(SHAPES, 0)
    state = step.transform.init(params)
    params, state = step(params, tensors(SHAPES, 1), state)
    kept = copy((params, state))
    wrong = {**tensors(SHAPES, 2), "wide": torch.ones(3, 3)}
    with pytest.raises(ValueError, match="wide"):
        step(params, wrong, state)
    assert_same((params, state), kept, 0, 0)


@pytest.mark.parametrize("name", ["trion", "dct_adamw", "dion2"])
@pytest.mark.parametrize("piece", [late._PIECE, 20])
def test_leaves_that_are_seen_as_matrices(
    name: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late, "_PIECE", piece)
    fused, pure, step = run_both(CHAINS[name](), {"conv": (6, 2, 2, 2), "w": (8, 12)})
    assert_same(fused, pure, 1e-4, 1e-5)
    assert step.engine._plan.pieces[0].strategy.name == "late"


def test_steps_that_cannot_fail_late_are_as_many_as_there_are_groups() -> None:
    ps = [torch.nn.Parameter(torch.randn(12, 8)) for _ in range(2)]
    groups = [{"params": [p], "rank": rank} for p, rank in zip(ps, (2, 4), strict=True)]
    opt = gx.optim.Trion(groups, fused=True)  # two chains
    for p in ps:
        p.grad = torch.ones_like(p)
    opt.step()
    assert all(p.isfinite().all() for p in ps)
