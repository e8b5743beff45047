"""Sparse and low-rank updates meet every transform that is made of others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.core.protocol import Wrapper, members
from gradtx.subspace.in_subspace import Products
from gradtx.subspace.norm_ratio import NormRatio
from gradtx.subspace.ratio import Factors
from gradtx.transforms.error_feedback import _InPlace
from gradtx.transforms.views import _Products, _Share

SPARSE = gx.SparseUpdate(torch.tensor([1, 5]), torch.tensor([3.0, -2.0]), (4, 2))
LOW_RANK = gx.LowRankUpdate(
    torch.tensor([[1.0], [-2.0], [0.5], [3.0]]), torch.tensor([[1.0], [0.5]]), (4, 2)
)
PARAMS = {"w": torch.ones(4, 2)}
PROJECTOR = gx.subspace.svd(1)

# Every class of transforms made of another one: how to make it around some transform.
AROUND: dict[str, Callable[[Any], gx.GradientTransformation]] = {
    "apply_if_finite": lambda tx: gx.apply_if_finite(tx),
    "apply_if_leaf_finite": lambda tx: gx.apply_if_leaf_finite(tx),
    "apply_if_leaf_finite-skip": lambda tx: gx.apply_if_leaf_finite(tx, "skip"),
    "as_gradients": lambda tx: gx.as_gradients(tx),
    "as_matrices": lambda tx: gx.as_matrices(tx),
    "chain": lambda tx: gx.chain(tx, gx.scale(2.0)),
    "acdc": lambda tx: gx.acdc(tx, gx.sparsity.phases(("dense", 9)), 0.5),
    "reset_on": lambda tx: gx.sparsity.reset_on(tx, gx.sparsity.phases(("sparse", 9))),
    "conditionally_mask": lambda tx: gx.conditionally_mask(tx, lambda count: count >= 0),
    "conditionally_transform": lambda tx: gx.conditionally_transform(tx, lambda count: count >= 1),
    "count_together": lambda tx: gx.count_together(tx),
    "decay_first": lambda tx: gx.decay_first(tx, lr=0.1, weight_decay=0.1),
    "error_feedback": lambda tx: gx.error_feedback(gx.compressors.identity(), inner=tx),
    "flatten": lambda tx: gx.flatten(tx),
    "in_basis": lambda tx: gx.in_basis(tx),
    "in_eigenbasis": lambda tx: gx.in_eigenbasis(tx, gx.kronecker_factors(0.9), gx.eigenbasis()),
    "inject_hyperparams": lambda tx: gx.inject_hyperparams(
        gx.chain(tx, gx.scale_by_learning_rate(0.1)), {"lr": 0.5}
    ),
    "in_subspace": lambda tx: gx.in_subspace(PROJECTOR, tx),
    "lookahead": lambda tx: gx.lookahead(tx, sync_period=2),
    "low_rank": lambda tx: gx.low_rank(tx, PROJECTOR),
    "masked": lambda tx: gx.masked(tx, lambda info: True),
    "mechanize": lambda tx: gx.mechanize(tx, s_init=0.1),
    "multi_steps": lambda tx: gx.multi_steps(tx, every_k=2),
    "on_gradients": lambda tx: gx.chain(gx.on_gradients(tx)),
    "parallel": lambda tx: gx.parallel(tx, gx.scale(2.0)),
    "parallel-graft": lambda tx: gx.parallel(gx.scale(2.0), tx, merge=gx.graft),
    "partition": lambda tx: gx.partition({"all": tx}, by=lambda info: "all"),
    "quotient": lambda tx: gx.quotient(gx.scale(2.0), gx.chain(tx, gx.stateless(shifted))),
    "schedule_free": lambda tx: gx.schedule_free(tx, 0.1),
    "scale_by_low_rank_ratio": lambda tx: gx.scale_by_low_rank_ratio(PROJECTOR, tx),
    "scale_by_prodigy": lambda tx: gx.scale_by_prodigy(tx),
    "skip_large_updates": lambda tx: gx.skip_large_updates(tx, max_norm=100.0),
    "split_real_and_imaginary": lambda tx: gx.split_real_and_imaginary(tx),
    "split_rows": lambda tx: gx.split_rows(tx, blocks=2),
}
ALONE = {
    "apply_every": lambda: gx.apply_every(2),
    "freeze": lambda: gx.freeze({"w": True}),
    "monitor": lambda: gx.monitor({"norm": gx.tree.global_norm}),
    "round_updates": lambda: gx.round_updates(),
    "set_to_zero": lambda: gx.set_to_zero(),
    "snapshot": lambda: gx.snapshot("n", gx.tree.global_norm),
}


def shifted(updates: Any, params: Any) -> Any:
    """Away from zero, so that it can be divided by."""
    return gx.tree.map(lambda u: gx.densify().update([u], ())[0][0] + 5.0, updates)


def kept(updates: Any, params: Any) -> Any:
    """Sparse updates that hold every entry: the same numbers in another form."""

    def sparse(u: Any) -> Any:
        dense = gx.densify().update([u], ())[0][0]
        return gx.SparseUpdate(torch.arange(dense.numel()), dense.reshape(-1), tuple(dense.shape))

    return gx.tree.map(sparse, updates)


def factored(updates: Any, params: Any) -> Any:
    """Low-rank updates of full rank, where they are matrices."""

    def low(u: Any) -> Any:
        dense = gx.densify().update([u], ())[0][0]
        if dense.ndim != 2:
            return dense
        return gx.LowRankUpdate(dense, torch.eye(dense.shape[1]), tuple(dense.shape))

    return gx.tree.map(low, updates)


def run(tx: gx.GradientTransformation, updates: Any, steps: int = 3) -> list[Any]:
    state, outs = tx.init(PARAMS), []
    for _ in range(steps):
        out, state = tx.update(updates, state, PARAMS)
        outs.append(gx.densify().update(out, ())[0])
    return outs


def assert_same(got: list[Any], want: list[Any]) -> None:
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("u", [SPARSE, LOW_RANK], ids=["sparse", "low_rank"])
@pytest.mark.parametrize("name", AROUND)
def test_structured_updates_come_in(name: str, u: Any) -> None:
    """They give what the same numbers as tensors give."""
    if name == "low_rank" and u is LOW_RANK:
        pytest.skip("its transform sees factors")
    tx = AROUND[name](gx.scale(0.5))
    assert_same(run(tx, {"w": u}), run(tx, {"w": u.to_dense()}))


@pytest.mark.parametrize("form", [kept, factored])
@pytest.mark.parametrize("name", AROUND)
def test_structured_updates_come_out_of_the_inner_transform(
    name: str, form: Callable[..., Any]
) -> None:
    dense = {"w": torch.randn(4, 2)}
    got = run(AROUND[name](gx.chain(gx.scale(0.5), gx.stateless(form))), dense)
    assert_same(got, run(AROUND[name](gx.scale(0.5)), dense))


@pytest.mark.parametrize("u", [SPARSE, LOW_RANK], ids=["sparse", "low_rank"])
@pytest.mark.parametrize("name", ALONE)
def test_structured_updates_meet_others(name: str, u: Any) -> None:
    tx = ALONE[name]()
    assert_same(run(tx, {"w": u}), run(tx, {"w": u.to_dense()}))


@pytest.mark.parametrize("u", [SPARSE, LOW_RANK], ids=["sparse", "low_rank"])
def test_skipped_structured_updates(u: Any) -> None:
    bad = u.map(lambda x: x * torch.nan)
    for tx in (
        gx.apply_if_finite(gx.scale(0.5)),
        gx.apply_if_leaf_finite(gx.scale(0.5), "skip"),
        gx.skip_large_updates(gx.scale(0.5), 1e-3),
    ):
        out = tx.update({"w": bad}, tx.init(PARAMS), PARAMS)[0]["w"]
        assert type(out) is type(u)
        assert out.to_dense().eq(0).all()
    with pytest.raises(ValueError, match="leaf 'w'"):
        gx.apply_if_leaf_finite(gx.scale(0.5)).update({"w": bad}, (), PARAMS)


def test_norms_of_structured_updates() -> None:
    for u in (SPARSE, LOW_RANK):
        norm = u.to_dense().norm()
        torch.testing.assert_close(gx.tree.global_norm({"w": u}), norm)
        torch.testing.assert_close(gx.tree.vdot({"w": u}, {"w": u}), norm.square())


def test_every_wrapper_is_here() -> None:
    def below(cls: type) -> set[type]:
        return {cls}.union(*(below(c) for c in cls.__subclasses__()))

    made = set()
    for make in AROUND.values():
        made |= {type(m) for _, m in members(make(gx.scale(0.5)))}
    private = {Wrapper, Factors, NormRatio, Products, _InPlace, _Products, _Share}
    # What an example of a docstring defines says the same module, which does not hold it.
    ours = {c for c in below(Wrapper) if c.__module__.startswith("gradtx.")}
    ours = {c for c in ours if getattr(sys.modules[c.__module__], c.__name__, None) is c}
    assert ours - private <= made, ours - private - made
