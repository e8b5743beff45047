"""Leaves that are updated in different parts: what cannot be fused leaves the others alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.optim.fused import FusedSteps
from tests.fuse.helpers import assert_same, copy, run_both, tensors

SHAPES = {"b": (7,), "w": (8, 6), "v": (8, 6), "s": ()}


class Cumulative(gx.LeafTransform):
    """Running sums along the first dimension, which no pass computes."""

    def update_leaf(self, u: Tensor, s: tuple[()], p: Tensor | None, h: Any) -> tuple[Tensor, Any]:
        return u.cumsum(0), s


def by_dims(info: gx.LeafInfo) -> str:
    return "matrix" if info.ndim == 2 else "other"


def labelled(lr: Any = 0.1) -> gx.GradientTransformation:
    matrix = gx.chain(gx.trace(0.9), Cumulative(), gx.scale_by_learning_rate(lr))
    return gx.partition({"matrix": matrix, "other": gx.adamw(lr)}, by=by_dims)


CHAINS = {
    "labelled": lambda: gx.chain(labelled(), gx.scale(0.5)),
    "bare": labelled,
    "schedule": lambda: labelled(gx.schedules.linear(0.1, 0.0, 4)),
    "masked": lambda: gx.chain(
        gx.masked(Cumulative(), lambda info: info.ndim == 2), gx.scale_by_adam(), gx.scale(-0.1)
    ),
    "muon": lambda: gx.muon(0.1),
    "last": lambda: gx.chain(gx.scale_by_adam(), labelled()),
}


@pytest.mark.parametrize("name", CHAINS)
def test_fused_is_pure(name: str) -> None:
    fused, pure, step = run_both(CHAINS[name](), SHAPES)
    assert_same(fused, pure, rtol=1e-4, atol=1e-5)
    assert step.report() != "everything is fused"


def test_the_other_leaves_are_fused() -> None:
    text = gx.explain(CHAINS["labelled"](), tensors(SHAPES, 0))
    assert "partition                 partly, 1 pass" in text
    assert "scale                     fused, 1 pass" in text


def test_all_leaves_go_together_through_sums_over_the_tree() -> None:
    tx = gx.chain(gx.clip_by_global_norm(0.1), labelled())
    fused, pure, _ = run_both(tx, SHAPES)
    assert_same(fused, pure, rtol=1e-4, atol=1e-5)
    text = gx.explain(tx, tensors(SHAPES, 0))
    assert "partition                 partly, 2 passes" in text


def test_nothing_changes_when_one_part_raises() -> None:
    tx, params = labelled(), tensors(SHAPES, 0)
    step, state = gx.fuse(tx), tx.init(params)
    step(params, tensors(SHAPES, 1), state)
    before = copy((params, state))

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("no")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cumulative, "update_leaf", fail)
        with pytest.raises(ValueError, match="no"):
            step(params, tensors(SHAPES, 2), state)
    assert_same((params, state), before, rtol=0.0, atol=0.0)


def test_new_tensors_and_new_gradients() -> None:
    tx, params = labelled(), tensors(SHAPES, 0)
    step, state = gx.fuse(tx), tx.init(params)
    want, pure = copy(params), tx.init(params)
    for t in range(5):
        grads: dict[str, Tensor | None] = dict(tensors(SHAPES, t + 1))
        if t == 2:
            grads["w"] = None
        if t == 3:
            params, state = copy(params), copy(state)
        params, state = step(params, grads, state)
        updates, pure = tx.update(grads, pure, want)
        want = gx.apply_updates(want, updates)
    assert_same((params, state), (want, pure))


def test_a_quotient_whose_numerator_is_not_fused() -> None:
    above = gx.chain(Cumulative(), gx.first_moment(0.9), gx.undo_bias(0.9))
    tx = gx.chain(gx.quotient(above, gx.root_second_moment(0.99)), gx.scale_by_learning_rate(0.1))
    fused, pure, step = run_both(tx, {"w": (8, 6), "b": (5,)})
    assert_same(fused, pure)
    assert step.report().startswith("quotient.numerator.Cumulative: ")
    text = gx.explain(tx, tensors(SHAPES, 0))
    assert "quotient                  partly, 1 pass" in text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_quotient_that_is_not_fused_in_other_dtypes(dtype: torch.dtype) -> None:
    tx = gx.adam_snsm(0.1, rank=2, update_proj_gap=2, proj_type="uniform")
    rtol = 2e-2 if dtype == torch.bfloat16 else 1e-9
    fused, pure, _ = run_both(tx, {"w": (8, 6), "b": (5,)}, dtype=dtype)
    assert_same(fused, pure, rtol, rtol / 10)


def test_optimizer_of_labelled_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    params = [torch.nn.Parameter(x) for x in tensors(SHAPES, 0).values()]
    same = [torch.nn.Parameter(p.detach().clone()) for p in params]
    optimizer, pure = gx.optim.Muon(params, lr=0.1), gx.optim.Muon(same, lr=0.1)
    for t in range(3):
        for p, q, g in zip(params, same, tensors(SHAPES, t + 1).values(), strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        optimizer.step()
        with monkeypatch.context() as patch:
            patch.setattr(FusedSteps, "prepare", lambda *_, **__: "switched off")
            pure.step()
    assert_same([p.detach() for p in params], [p.detach() for p in same], rtol=1e-4, atol=1e-5)


def test_forms_of_some_states_beside_others_that_have_none() -> None:
    """The denominator is fused though the numerator's basis is neither row nor column."""
    tx = gx.adam_snsm(0.1, rank=4, update_proj_gap=2, weight_decay=0.1)
    fused, pure, step = run_both(tx, {"tall": (40, 12), "wide": (12, 40), "square": (16, 16)})
    assert_same(fused, pure, rtol=2e-4, atol=2e-5)
    assert step.report().startswith("quotient.numerator.subspace_momentum: ")
    assert "denominator" not in step.report()


@pytest.mark.parametrize("coefficients", ["quintic5", "polar_express5", "svd"])
def test_large_leaves_one_by_one(coefficients: str) -> None:
    """They are written before others are computed where nothing can fail any more."""
    shapes = {"a": (512, 600), "b": (700,), "c": (600, 512), "d": (8, 6)}
    lr = gx.schedules.linear(0.1, 0.0, 4)
    fused, pure, step = run_both(gx.muon(lr, coefficients=coefficients), shapes)
    assert_same(fused, pure, rtol=2e-4, atol=2e-5)
    kinds = [piece.strategy.name for piece in step.engine._plan.pieces]
    assert len(kinds) == 4
    assert ("streamed" in kinds) == (coefficients != "svd")


@pytest.mark.parametrize("given", ["number", "tree"])
def test_large_leaves_that_do_not_see_the_others(given: str) -> None:
    """Labels and numbers that are trees reach leaves that are updated as trees of their own."""
    shapes = {"a.x": (512, 520), "b": (7,), "c": (512, 520), "d": (512, 520)}
    labels = {"a.x": "one", "b": "rest", "c": "two", "d": "one"}
    last = gx.scale_by_learning_rate(0.1)
    members = {
        name: gx.chain(gx.trace(decay), gx.orthogonalize(), last)
        for name, decay in (("one", 0.9), ("two", 0.5))
    }
    tx = gx.partition({**members, "rest": last}, by=labels)
    lr: Any = 0.2 if given == "number" else {"a.x": 0.2, "b": 0.1, "c": 0.3, "d": 0.4}
    fused, pure, step = run_both(tx, shapes, hyper={"lr": lr})
    assert_same(fused, pure, rtol=2e-4, atol=2e-5)
    pieces = [piece for piece in step.engine._plan.pieces if piece.strategy.name == "streamed"]
    assert {piece.batch.spec.num_leaves for piece in pieces} <= {1, 2}
    assert sum(len(piece.kinds) for piece in pieces) == 3


def test_what_fails_in_a_first_step_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tx, params = gx.muon(0.1), tensors({"a": (512, 600), "b": (600, 512)}, 0)
    step, state = gx.fuse(tx), tx.init(params)
    before, calls = copy((params, state)), []
    factors = gx.orthogonalize._factors

    def fail(self: Any, x: list[Tensor], *args: Any) -> Tensor:
        calls.append(x)
        if len(calls) == 2:
            raise RuntimeError("no memory")
        return factors(self, x, *args)

    monkeypatch.setattr(gx.orthogonalize, "_factors", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        step(params, tensors({"a": (512, 600), "b": (600, 512)}, 1), state)
    assert_same((params, state), before, rtol=0.0, atol=0.0)
