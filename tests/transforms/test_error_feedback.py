"""Error feedback around any compressor, quantizer and inner transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import gradtx as gx
from gradtx import codecs, compressors

seeds = st.integers(0, 2**32 - 1)


def run(tx: Any, params: Any, grads: list[Any], state: Any = None) -> tuple[Any, Any]:
    state = tx.init(params) if state is None else state
    for g in grads:
        updates, state = tx.update(g, state, params)
        params = gx.apply_updates(params, updates)
    return params, state


def draws(seed: int, steps: int, shape: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


COMPRESSORS = [
    compressors.identity(),
    compressors.top_k(0.2),
    compressors.block_top_k(0.2, 8),
    compressors.random_k(0.3),
    compressors.threshold(1.5),
    compressors.sign(),
    compressors.low_rank(1),
]


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
@given(seeds)
def test_nothing_is_lost(compressor: compressors.Compressor, seed: int) -> None:
    """What went out and what is remembered add up to what came in."""
    p, *grads = draws(seed, 7, (6, 4))
    tx = gx.chain(gx.error_feedback(compressor), gx.densify())
    state, sent = tx.init(p), torch.zeros(6, 4)
    for g in grads:
        update, state = tx.update(g, state, p)
        sent = sent + update
    torch.testing.assert_close(sent + gx.tree.get(state, "error"), sum(grads), rtol=0, atol=1e-5)


def test_identity_changes_nothing() -> None:
    p, *grads = draws(0, 4, (5,))
    inner = gx.scale_by_adam()
    tx = gx.error_feedback(compressors.identity(), codecs.affine(4), inner)
    assert torch.equal(run(tx, p, grads)[0], run(inner, p, grads)[0])


QUADRATIC = torch.linspace(0.5, 2.0, 48).reshape(8, 6)


def distance(tx: gx.GradientTransformation, steps: int = 400) -> float:
    """How far a run on a noisy quadratic ends from the solution, relative to the start."""
    target = draws(5, 1, (8, 6))[0]
    params, state = torch.zeros(8, 6), tx.init(torch.zeros(8, 6))
    for noise in draws(6, steps, (8, 6)):
        g = QUADRATIC * (params - target) + 0.01 * noise
        params, state = run(tx, params, [g], state)
    return ((params - target).norm() / target.norm()).item()


def adam(step: gx.GradientTransformation) -> gx.GradientTransformation:
    return gx.chain(step, gx.densify(), gx.scale_by_adam(), gx.scale(-0.02))


COMPOSITIONS: dict[str, Callable[[], gx.GradientTransformation]] = {
    "top_k + EF + Adam": lambda: adam(
        gx.error_feedback(compressors.top_k(0.25), codecs.affine(8, 16))
    ),
    "sign + EF + momentum": lambda: gx.chain(
        gx.trace(0.9), gx.scale(0.003), gx.error_feedback(compressors.sign()), gx.scale(-1.0)
    ),
    "momentum inside EF": lambda: gx.chain(
        gx.error_feedback(compressors.sign(), torch.bfloat16, gx.trace(0.9)), gx.scale(-0.01)
    ),
    "low rank + EF": lambda: gx.chain(
        gx.error_feedback(compressors.low_rank(1), codecs.symmetric(8, 16)),
        gx.densify(),
        gx.scale(-0.1),
    ),
    "random_k + EF + windowed Adam": lambda: gx.chain(
        gx.error_feedback(
            compressors.random_k(0.3),
            codecs.affine(4, 8, "stochastic"),
            gx.sliding_window_adam(compressor=compressors.random_k(0.3)),
        ),
        gx.scale(-0.01),
    ),
    "threshold + EF": lambda: gx.chain(
        gx.error_feedback(compressors.threshold(1.0)), gx.scale(-0.1)
    ),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_compositions_converge(name: str) -> None:
    assert distance(COMPOSITIONS[name]()) < 0.1


def test_without_feedback_they_do_not() -> None:
    """A threshold that is too high stops everything; a rank of one never sees the other ones."""
    stuck = gx.chain(gx.compress(compressors.threshold(1.0)), gx.scale(-0.1))
    assert distance(stuck) > 0.3
    sign = gx.chain(gx.compress(compressors.sign()), gx.scale(-0.01))
    with_feedback = gx.chain(gx.error_feedback(compressors.sign()), gx.scale(-0.01))
    assert distance(with_feedback) < distance(sign)


def test_quantizers_of_small_entries() -> None:
    """Entries that are never chosen come out through the release, or get lost.

    Sixty steps of 0.005 release 0.255. Levels without a zero make up a drift of their own, an exact
    zero rounds everything away, and stochastic rounding is right on average.
    """
    g, p = torch.full((64,), 0.005), torch.zeros(64)
    g[:4] = torch.tensor([1.0, -1.0, 0.9, -0.9])

    def mean(quantizer: codecs.Codec | None) -> float:
        tx = gx.error_feedback(compressors.block_top_k(0.02), quantizer, gx.densify(), release=0.1)
        return run(tx, p, [g] * 60)[0][4:].mean().item()

    exact = mean(None)
    assert exact == pytest.approx(0.2551, abs=1e-4)
    assert mean(codecs.affine(4, 64)) > 2 * exact
    assert mean(codecs.affine(4, 64, include_zero=True)) == 0
    assert mean(codecs.symmetric(4, 64)) == 0
    assert mean(codecs.affine(4, 64, "stochastic")) == pytest.approx(exact, abs=0.1)
    assert mean(codecs.symmetric(4, 64, "stochastic")) == pytest.approx(exact, abs=0.1)


@given(seeds, st.sampled_from([0.0, 0.3]))
def test_release(seed: int, release: float) -> None:
    p, *grads = draws(seed, 4, (20,))
    keep = compressors.top_k(0.1)
    tx = gx.error_feedback(keep, None, gx.chain(gx.densify(), gx.scale(2.0)), release)
    state, error = tx.init(p), torch.zeros(20)
    for g in grads:
        update, state = tx.update(g, state, p)
        total = g + error
        payload = keep.compress(total, ())[0]
        rest = keep.residual(total, payload)
        torch.testing.assert_close(update, 2 * payload.to_dense() + release * rest)
        error = (1 - release) * rest
        torch.testing.assert_close(gx.tree.get(state, "error"), error)


@given(seeds)
def test_leftover(seed: int) -> None:
    """What the quantizer loses is taken off the parameters, which move against updates."""
    p, *grads = draws(seed, 4, (20,))
    keep, coarse = compressors.top_k(0.1), codecs.affine(2, 10)
    tx = gx.error_feedback(keep, coarse, gx.chain(gx.densify(), gx.scale(-0.5)), leftover="apply")
    state, error = tx.init(p), torch.zeros(20)
    for g in grads:
        update, state = tx.update(g, state, p)
        total = g + error
        payload = keep.compress(total, ())[0]
        rest = keep.residual(total, payload)
        error = coarse.decode(gx.tree.get(state, "error"), p)
        torch.testing.assert_close(update, -0.5 * payload.to_dense() - (rest - error))


def test_structured_updates_flow_on() -> None:
    p, g = torch.zeros(6, 4), draws(0, 1, (6, 4))[0]
    for compressor, kind in (
        (compressors.top_k(0.2), gx.SparseUpdate),
        (compressors.low_rank(1), gx.LowRankUpdate),
    ):
        tx = gx.chain(gx.error_feedback(compressor), gx.scale(2.0))
        update, _ = tx.update(g, tx.init(p), p)
        assert isinstance(update, kind)
        assert update.shape == (6, 4)
    tx = gx.chain(gx.error_feedback(compressors.top_k(0.2)), gx.scale_by_adam())
    with pytest.raises(
        gx.UnsupportedLeafError, match=r"scale_by_adam: .*put gx.densify\(\) before"
    ):
        tx.update(g, tx.init(p), p)


def test_every_leaf_has_its_own_random_numbers() -> None:
    p = {"a": torch.zeros(40), "b": torch.zeros(40)}
    g = dict.fromkeys(p, draws(0, 1, (40,))[0])
    tx = gx.error_feedback(compressors.random_k(0.2), codecs.affine(4, 8, "stochastic"))
    updates, state = tx.update(g, tx.init(p), p)
    assert not torch.equal(updates["a"].indices, updates["b"].indices)
    keys = gx.tree.get_all(state, "key")
    assert len(keys) == 4
    assert len({tuple(k.tolist()) for k in keys.values()}) >= 2
    again, _ = tx.update(g, state, p)
    assert not torch.equal(again["a"].indices, updates["a"].indices)


def test_overrides_reach_the_inner_transform() -> None:
    p, g = torch.zeros(8), draws(0, 1, (8,))[0]
    tx = gx.error_feedback(
        compressors.top_k(0.2), inner=gx.chain(gx.densify(), gx.scale_by_learning_rate(0.1))
    )
    state = tx.init(p)
    plain, _ = tx.update(g, state, p)
    for name in ("lr", "chain.scale_by_learning_rate.lr"):
        other, _ = tx.update(g, state, p, hyper={name: 0.3})
        torch.testing.assert_close(other, 3 * plain)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"release": 1.0}, ValueError, r"error_feedback: release must be in \[0, 1\), got 1.0"),
        ({"leftover": "keep"}, ValueError, "leftover must be 'drop' or 'apply', got 'keep'"),
        ({"requantize": "x"}, ValueError, "requantize must be 'exact' or 'scale', got 'x'"),
        ({"release": 0.1, "leftover": "apply"}, ValueError, "exclude each other"),
        ({"quantizer": 4}, TypeError, "quantizer must be a codec, a dtype or None, got int"),
        ({"inner": torch.neg}, TypeError, "inner must be a GradientTransformation"),
        ({"compressor": 0.1}, TypeError, "compressor must be one of gx.compressors, got float"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        gx.error_feedback(**{"compressor": compressors.sign(), **options})


def test_in_param_dtype_needs_parameters() -> None:
    tx = gx.error_feedback(compressors.sign(), in_param_dtype=True)
    p = torch.ones(3)
    with pytest.raises(ValueError, match="error_feedback: needs the parameters"):
        tx.update(p, tx.init(p))
