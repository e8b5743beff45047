"""Transforms in a subspace: what they must equal, what they keep, what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.core import decompositions
from tests.battery.helpers import assert_close, random_tree

s = gx.subspace
SHAPES = {"w": (6, 4), "b": (4,), "k": (3, 2, 2)}


def run(tx: gx.GradientTransformation, steps: int = 6, shapes: Any = SHAPES) -> list[Any]:
    params = random_tree(99, shapes)
    state, outs = tx.init(params), []
    for t in range(steps):
        out, state = tx.update(random_tree(t, shapes), state, params)
        outs.append(out)
    return outs


def adam_step() -> gx.GradientTransformation:
    return gx.quotient(gx.first_moment(0.8), gx.root_second_moment(0.9))


@pytest.mark.parametrize("kind", [s.svd, s.power_iteration, s.srdct, s.qr_sketch])
def test_linear_transforms_in_the_whole_space(kind: Any) -> None:
    """Rotations commute with a momentum that moves along."""
    tx = gx.in_subspace(kind(4), gx.trace(0.9), s.zero_based(2), "rotate")
    assert_close(run(tx), run(gx.trace(0.9)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [s.uniform, s.top_norm])
def test_adam_in_the_whole_space(kind: Any) -> None:
    """Permutations commute with everything that treats entries alike."""
    tx = gx.in_subspace(kind(6), adam_step(), s.zero_based(2), "rotate")
    assert_close(run(tx), run(adam_step()), rtol=1e-5)


def test_subspace_momentum_in_the_whole_space_is_momentum() -> None:
    for kind, policy in ((s.svd, s.one_based(2)), (s.power_iteration, s.every_step())):
        tx = gx.subspace_momentum(kind(4), 0.8, policy, "rotate")
        assert_close(run(tx), run(gx.first_moment(0.8)), rtol=1e-4, atol=1e-5)


def test_subspace_momentum_outside_is_the_gradient() -> None:
    projector = s.svd(2)
    g = random_tree(1, {"w": (6, 4)})
    tx = gx.subspace_momentum(projector, 0.9)
    out, _ = tx.update(g, tx.init(g))
    state = projector.refresh(projector.init(g["w"]), g["w"], first=True)
    z = projector.project(state, g["w"])
    torch.testing.assert_close(projector.project(state, out["w"]), 0.1 * z)
    rest = projector.complement(state, g["w"])
    torch.testing.assert_close(projector.complement(state, out["w"]), rest)


def test_debias_divides_the_momentum_alone() -> None:
    g = random_tree(1, {"w": (6, 4)})
    tx = gx.subspace_momentum(s.svd(2), 0.9, debias=True)
    assert_close(tx.update(g, tx.init(g))[0], g, rtol=1e-5)


def test_ldadam_in_the_whole_space_loses_nothing() -> None:
    tx, shapes = gx.scale_by_ldadam(s.svd(4)), {"w": (6, 4)}
    params, state = random_tree(0, shapes), tx.init(random_tree(0, shapes))
    for t in range(4):
        _, state = tx.update(random_tree(t, shapes), state, params)
        assert tx.left_out(state["w"], (6, 4)).abs().max() < 2e-5


def test_ldadam_accounts_for_every_gradient() -> None:
    """Without a first moment what comes in is what is applied and what is remembered."""
    projector, g = s.power_iteration(2), random_tree(5, {"w": (6, 4)})
    tx = gx.scale_by_ldadam(projector, b1=0.0)
    state = tx.init(g)
    for _ in range(3):
        old = state
        _, state = tx.update(g, state)
        new = state["w"].projector
        total = g["w"] + tx.left_out(old["w"], (6, 4))
        kept = projector.back(new, projector.project(new, total), (6, 4))
        torch.testing.assert_close(kept + tx.left_out(state["w"], (6, 4)), total)


def test_error_feedback_takes_projections() -> None:
    compressor = s.projection(s.power_iteration(1), s.every_step())
    tx = gx.chain(gx.error_feedback(compressor), gx.lift())
    g = random_tree(3, {"w": (5, 4)})
    state, total = tx.init(g), torch.zeros(5, 4)
    for _ in range(60):
        out, state = tx.update(g, state)
        total += out["w"]
    error = state["error_feedback"].leaves["w"].error
    torch.testing.assert_close(total + error, 60 * g["w"], atol=1e-3, rtol=1e-4)
    assert error.norm() < 0.2 * total.norm()


def test_low_rank_is_in_subspace_with_its_parts() -> None:
    projector, policy = s.svd(2), s.zero_based(3)
    parts = gx.chain(
        gx.project_to_subspace(projector, policy),
        gx.low_rank(adam_step(), projector),
        gx.lift(0.25),
    )
    assert_close(run(parts), run(gx.in_subspace(projector, adam_step(), policy, scale=0.25)))


def test_other_leaves_go_through_the_inner_transform() -> None:
    outs, plain = run(gx.in_subspace(s.svd(1), adam_step(), scale=0.5)), run(adam_step())
    for name in ("b", "k"):
        assert_close([x[name] for x in outs], [x[name] for x in plain])
    chosen = gx.in_subspace(s.svd(1), adam_step(), where=lambda info: info.name != "w")
    assert_close(run(chosen), plain)


def test_ratio_is_the_length_of_the_inner_update() -> None:
    outs = run(gx.scale_by_low_rank_ratio(s.uniform(6), adam_step(), granularity="tensor"))
    for t, (out, want) in enumerate(zip(outs, run(adam_step()), strict=True)):
        g = random_tree(t, SHAPES)["w"]
        torch.testing.assert_close(out["w"], g * (want["w"].norm() / g.norm()), rtol=1e-5, atol=0)


def test_reset_forgets_moments_and_keeps_counters() -> None:
    tx = gx.in_subspace(s.svd(2), gx.scale_by_adam(), s.zero_based(2), "reset")
    g = random_tree(0, {"w": (6, 4)})
    state = tx.init(g)
    for _ in range(3):
        z = state.inner_state["w"]
        _, state = tx.update(g, state)
    assert z.step == 2
    assert state.inner_state["w"].step == 3
    fresh = tx.update(g, tx.init(g))[1].inner_state["w"]
    assert_close(state.inner_state["w"].mu.abs(), fresh.mu.abs(), rtol=1e-4)


def test_decompositions_run_only_when_due(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    svd = decompositions.svd
    monkeypatch.setattr(decompositions, "svd", lambda *a, **k: calls.append(1) or svd(*a, **k))
    run(gx.in_subspace(s.svd(2), adam_step(), s.zero_based(3)), steps=7)
    assert len(calls) == 3
    calls.clear()
    run(gx.scale_by_ldadam(s.power_iteration(2)), steps=7)
    assert len(calls) == 1


def test_a_missing_gradient_does_not_count() -> None:
    tx = gx.in_subspace(s.svd(1), adam_step(), s.zero_based(2))
    params = random_tree(0, {"a": (4, 3), "b": (4, 3)})
    state = tx.init(params)
    for t in range(3):
        g = random_tree(t, {"a": (4, 3), "b": (4, 3)})
        _, state = tx.update(g | ({"b": None} if t == 1 else {}), state, params)
    assert state.leaves["a"].step == 3
    assert state.leaves["b"].step == 2


def test_bfloat16_parameters_have_float32_state() -> None:
    tx = gx.galore_adamw(rank=2)
    params = random_tree(0, {"w": (6, 4)}, torch.bfloat16)
    state = tx.init(params)
    for t in range(3):
        out, state = tx.update(random_tree(t, {"w": (6, 4)}, torch.bfloat16), state, params)
    kinds = {x.dtype for x in gx.tree.leaves(state)}
    assert kinds == {torch.float32, torch.int32}
    assert out["w"].dtype == torch.float32


def test_limited_growth_after_zero_gradients() -> None:
    tx = gx.limit_norm_growth(1.5)
    state = tx.init({"w": torch.zeros(1)})
    got = []
    for size in (0.0, 4.0, 100.0, 1.0, 1.2):
        out, state = tx.update({"w": torch.tensor([size])}, state)
        got.append(out["w"].item())
    assert got == pytest.approx([0.0, 4.0, 6.0, 1.0, 1.2])


BAD: list[tuple[Any, str]] = [
    (
        lambda: gx.in_subspace(s.svd(1), adam_step(), on_refresh="stale"),
        r"on_refresh must be .* or ",
    ),
    (lambda: gx.subspace_momentum(s.svd(1), on_refresh="no"), r"on_refresh must be .* or "),
    (lambda: gx.scale_by_ldadam(s.gaussian(2)), "not orthonormal"),
    (lambda: gx.scale_by_ldadam(rho=1.0), "rho must be in"),
    (lambda: gx.scale_by_ldadam(b1=1.0), "b1 must be in"),
    (
        lambda: gx.scale_by_low_rank_ratio(s.svd(1), gx.identity(), granularity="row"),
        "granularity must be 'channel' or ",
    ),
    (
        lambda: gx.scale_by_low_rank_ratio(s.two_sided(s.svd(1)), gx.identity()),
        "channels need a projector with one side",
    ),
    (
        lambda: gx.apollo(proj_type="reverse_std", rank=1).init({"w": torch.zeros(5, 3)}),
        "leaf 'w'.*granularity='tensor'",
    ),
    (lambda: gx.apollo(proj_type="full"), "'full' needs an orthonormal basis"),
    (lambda: gx.apollo(scale=-1.0), "scale must be in"),
    (lambda: gx.galore_adamw(proj="best"), "kind of subspace must be one of"),
    (
        lambda: gx.galore_adamw(proj_type="up"),
        "side must be 'std', 'std_left', 'reverse_std', 'left', 'right' or 'larger'",
    ),
    (lambda: gx.galore_adamw(update_proj_gap=0), "every must be an integer >= 1"),
    (lambda: gx.galore_adamw(rank=0), "rank must be an integer >= 1"),
    (lambda: gx.galore_adafactor(0.1), "give lr, or relative_step"),
    (lambda: gx.galore_adafactor(relative_step=False), "give lr, or relative_step"),
    (
        lambda: gx.galore_adafactor(0.1, relative_step=False, warmup_init=True),
        "warmup_init needs relative_step",
    ),
    (lambda: gx.ldadamw(proj_type="full"), "must name one side"),
    (lambda: gx.snsm(momentum="sm", rank=2), "needs rank and update_proj_gap"),
    (lambda: gx.snsm(rank=2), "need momentum='sm'"),
    (lambda: gx.snsm(subset=2), "subset needs second_moment='sn'"),
    (lambda: gx.snsm(momentum="heavy"), "momentum must be one of"),
    (lambda: gx.snsm(second_moment="rms"), "second_moment must be one of"),
    (
        lambda: gx.in_subspace(
            s.svd(1), gx.scale_by_adam(mu_codec=gx.codecs.rank1()), on_refresh="rotate"
        ).init({"w": torch.zeros(8, 8)}),
        "does not know how to carry",
    ),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case: int) -> None:
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make()
