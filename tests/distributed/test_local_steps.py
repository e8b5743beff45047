"""Workers that step alone: what holds for their meetings whatever the gradients are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.distributed import LocalSteps, Simulation

gd = gx.distributed
SHAPES = {"w": (12, 16), "tall": (20, 9), "conv": (6, 2, 3, 3), "b": (7,), "s": ()}


def tree(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: scale * torch.randn(shape, generator=generator) for k, shape in SHAPES.items()}


def grads(step: int, workers: int) -> list[dict[str, Tensor]]:
    return [tree(1000 * step + m) for m in range(workers)]


def trained(method: LocalSteps, steps: int, workers: int = 2, order: Any = None) -> Simulation:
    out = Simulation(method, tree(0), workers)
    for t in range(1, steps + 1):
        given = grads(t, workers)
        out.step(given if order is None else [given[m] for m in order])
    return out


def projector_of(state: gd.LocalState, leaf: str) -> Tensor:
    q = {k.split(".")[-3]: q for k, q in gx.tree.get_all(state.local, "basis").items()}[leaf]
    return q @ q.mT


def drift(omega: float, weight_decay: float = 0.0) -> float:
    """How far the projector of a leaf moves over three meetings."""
    method = gd.lordo(0.01, rank=4, every=4, omega=omega, weight_decay=weight_decay)
    one = Simulation(method, {k: p.double() for k, p in tree(0).items()}, 2)
    first = None
    for t in range(1, 13):
        one.step([{k: g.double() for k, g in each.items()} for each in grads(t, 2)])
        first = projector_of(one.states[0], "w") if first is None else first
    return (projector_of(one.states[0], "w") - first).norm().item()


def test_without_the_gradients_own_part_no_step_leaves_the_first_subspace() -> None:
    assert drift(omega=1.0) < 2e-7
    assert drift(omega=0.9) > 0.1
    assert drift(omega=1.0, weight_decay=0.1) > 1e-3


@pytest.mark.parametrize("projection", ["svd", "power"])
def test_identical_workers_are_one_worker(projection: str) -> None:
    method = gd.lordo(0.01, rank=3, every=3, every_second=6, projection_type=projection)
    one, three = Simulation(method, tree(0), 1), Simulation(method, tree(0), 3)
    for t in range(1, 8):
        one.step(grads(t, 1))
        three.step(grads(t, 1) * 3)
    for got in three.params:
        for leaf, p in one.params[0].items():
            assert torch.equal(got[leaf], p)


def test_the_order_of_workers_changes_nothing() -> None:
    method = gd.lordo(0.01, rank=3, every=3)
    plain, turned = trained(method, 6, 3), trained(method, 6, 3, order=[2, 0, 1])
    for leaf, p in plain.params[0].items():
        torch.testing.assert_close(turned.params[0][leaf], p, rtol=1e-6, atol=1e-7)


def test_workers_are_equal_after_a_meeting_and_not_before() -> None:
    for method in (
        gd.lordo(0.01, rank=3, every=3),
        gd.desloc(0.01, every=3),
        gd.mt_dao(0.01, every=3),
        gd.diloco(gx.adamw(0.01), every=3),
    ):
        done = trained(method, 3)
        before = trained(method, 2)
        assert any(not torch.equal(before.params[0][k], before.params[1][k]) for k in SHAPES)
        for leaf, p in done.params[0].items():
            assert torch.equal(p, done.params[1][leaf])
        anchors = [one.syncs[1 if len(one.syncs) > 1 else 0].anchor for one in done.states]
        assert all(torch.equal(a, anchors[1][k]) for k, a in anchors[0].items())


def test_common_parameters_of_lordo_move_by_any_chain() -> None:
    def after(outer: Any) -> Any:
        workers = Simulation(gd.lordo(0.01, rank=3, every=2, outer=outer), tree(0), 2)
        for t in range(1, 7):
            workers.step(grads(t, 2))
        return workers.params[0]["w"]

    averaged = after(None)
    torch.testing.assert_close(after(gx.sgd(1.0)), averaged, rtol=1e-6, atol=1e-7)
    further = after(gx.sgd(1.0, 0.5, nesterov=True)) - tree(0)["w"]
    assert further.norm() > 1.2 * (averaged - tree(0)["w"]).norm()


def test_what_has_been_projected_and_what_is_remembered_is_what_was_given() -> None:
    """Error feedback loses nothing: sums of Q z and E are sums of gradients, for every worker."""
    method = gd.lordo(0.01, rank=3, every=4, max_norm=None)
    workers = Simulation(method, tree(0), 2)
    given = [torch.zeros(12, 16) for _ in range(2)]
    kept = [torch.zeros(12, 16) for _ in range(2)]
    for t in range(1, 7):
        errors = [gx.tree.get_all(s.local, "error") for s in workers.states]
        olds = [next(e for k, e in each.items() if k.endswith(".w")) for each in errors]
        g = grads(t, 2)
        workers.step(g, sync=False)
        for m in range(2):
            q = projector_of(workers.states[m], "w")
            given[m] += g[m]["w"]
            kept[m] += q @ (g[m]["w"] + olds[m])
        workers.meet()
    for m, s in enumerate(workers.states):
        error = next(e for k, e in gx.tree.get_all(s.local, "error").items() if k.endswith(".w"))
        torch.testing.assert_close(kept[m] + error, given[m], rtol=1e-5, atol=1e-5)


def test_a_subspace_that_is_everything_leaves_nothing_to_remember() -> None:
    projector = gx.subspace.svd(12, "std_left")
    kept = gx.subspace.projection(projector, gx.subspace.never())
    tx = gx.chain(gx.error_feedback(kept), gx.lift(), gx.scale(-0.01))
    method = LocalSteps(
        tx,
        (gd.outer(every=2), gd.refresh_subspaces(projector, 2, rotate=False)),
        gd.first_bases(projector),
    )
    workers = Simulation(method, {"w": tree(0)["w"]}, 2)
    for t in range(1, 6):
        workers.step([{"w": g["w"]} for g in grads(t, 2)])
        errors = gx.tree.get_all(workers.states[1].local, "error")
        assert max(e.abs().max() for e in errors.values()) < 1e-5


def test_one_worker_that_always_meets_is_an_ordinary_optimizer() -> None:
    method = gd.diloco(gx.adamw(0.01), gx.sgd(1.0), every=1)
    alone = trained(method, 5, workers=1)
    tx, params = gx.adamw(0.01), tree(0)
    state = tx.init(params)
    for t in range(1, 6):
        updates, state = tx.update(grads(t, 1)[0], state, params)
        params = gx.apply_updates(params, updates)
    for leaf, p in params.items():
        torch.testing.assert_close(alone.params[0][leaf], p, rtol=1e-6, atol=1e-7)


def test_moments_are_averaged_at_their_own_periods() -> None:
    method = gd.desloc(0.01, every=1, every_first=2, every_second=3)
    for steps, first, second in ((1, False, False), (2, True, False), (3, False, True)):
        one, two = trained(method, steps).states
        for field, same in (("mu", first), ("nu", second)):
            a, b = (gx.tree.get_all(s.local, field) for s in (one, two))
            assert all(torch.equal(x, b[k]) for k, x in a.items()) == same


def test_momenta_have_periods_in_the_order_of_the_chain() -> None:
    method = gd.mt_dao(0.01, (0.5, 0.999), (0.4, 0.4), every=1, every_first=(1, 4))
    one, two = trained(method, 1).states
    fast, slow = (gx.tree.get_all(one.local, "mu") for _ in range(2))
    other = gx.tree.get_all(two.local, "mu")
    equal = [torch.equal(x, other[k]) for k, x in fast.items() if k.endswith(".w")]
    assert equal == [True, False], list(slow)


def test_a_gradient_that_is_missing_moves_nothing() -> None:
    method = gd.lordo(0.01, rank=3, every=2)
    workers = Simulation(method, tree(0), 2)
    for t in (1, 2):
        workers.step([{**g, "tall": None, "b": None} for g in grads(t, 2)])
    assert torch.equal(workers.params[0]["tall"], tree(0)["tall"])
    assert not torch.equal(workers.params[0]["w"], tree(0)["w"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    method = gd.lordo(0.01, rank=3, every=2)
    start = {k: p.to(dtype) for k, p in tree(0).items()}
    workers = Simulation(method, start, 2)
    for t in (1, 2, 3, 4):
        workers.step([{k: g.to(dtype) for k, g in one.items()} for one in grads(t, 2)])
    one, two = workers.params
    assert all(p.dtype == dtype and torch.equal(p, two[k]) for k, p in one.items())


def test_sync_changes_nothing_in_place() -> None:
    method = gd.lordo(0.01, rank=3, every=1)
    params = tree(0)
    state = method.begin(tree(1), params, method.init(params), gd.one_worker)
    _, state = method.update(tree(1), state, params)
    copies = gx.tree.map(lambda x: x.clone() if isinstance(x, Tensor) else x, (params, state))
    method.sync(params, state, gd.one_worker)
    for a, b in zip(gx.tree.leaves((params, state)), gx.tree.leaves(copies), strict=True):
        assert torch.equal(a, b)


def test_workers_as_one_batch() -> None:
    """A worker's step is an ordinary transform: stacked workers step under vmap."""
    method = gd.desloc(0.01, every=100)
    plain = trained(method, 2)
    start = gx.tree.map(lambda p: torch.stack([p, p]), tree(0))
    state = torch.func.vmap(method.transform.init)(start)
    for t in (1, 2):
        g = gx.tree.map(lambda *x: torch.stack(x), *grads(t, 2))
        updates, state = torch.func.vmap(method.transform.update)(g, state, start)
        start = gx.apply_updates(start, updates)
    for m in range(2):
        for leaf, p in plain.params[m].items():
            torch.testing.assert_close(start[leaf][m], p, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gd.lordo(rank=0), "rank must be an integer >= 1, got 0"),
        (lambda: gd.lordo(rank=2.5), "rank"),
        (lambda: gd.lordo(every=0), "must be an integer >= 1, got 0"),
        (lambda: gd.lordo(every_first=0), "first must be an integer >= 1, got 0"),
        (lambda: gd.lordo(every_second=-1), "second must be an integer >= 1, got -1"),
        (lambda: gd.lordo(omega=1.2), r"omega must be in \[0, 1\], got 1.2"),
        (lambda: gd.lordo(b1=1.0), r"b1 must be in \[0, 1\), got 1.0"),
        (lambda: gd.lordo(eps=0.0), "eps must be > 0, got 0.0"),
        (lambda: gd.lordo(projection_type="qr"), "projection_type must be 'svd' or 'power'"),
        (lambda: gd.lordo(denominator="max"), "across must be one of"),
        (lambda: gd.lordo(outer="sgd"), "transform must be a GradientTransformation, got a str"),
        (lambda: gd.lordo(init="zeros"), "must be one of .*, got 'zeros'"),
        (lambda: gd.lordo(init="given"), "needs bases"),
        (lambda: gd.mt_dao(betas=(0.9,)), "a weight for every beta"),
        (lambda: gd.mt_dao(weights=(0.9, 0.9)), "at most 1 together"),
        (lambda: gd.Feedback(decay=2.0), r"decay must be in \[0, 1\]"),
        (lambda: gd.outer(anchor_dtype=torch.int32), "must be floating"),
        (lambda: Simulation(gd.desloc(), {}, 0), "workers must be >= 1, got 0"),
        (lambda: Simulation(gx.sgd(0.1), tree(0)), "method must be LocalSteps, got a Chain"),
        (lambda: Simulation(gd.desloc(), tree(0)).step([tree(0)]), "a list of 2, .*, got 1"),
        (lambda: Simulation(gd.desloc(), tree(0)).step(tree(0)), "a list of 2, .*, got a dict"),
    ],
)
def test_bad_options(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_first_subspaces() -> None:
    for init in ("random", "given"):
        bases = {
            k: torch.linalg.qr(torch.randn(n, 3)).Q
            for k, n in (("w", 12), ("tall", 9), ("conv", 6))
        }
        method = gd.lordo(rank=3, init=init, bases=bases if init == "given" else None)
        one = method.init(tree(0))
        assert torch.equal(projector_of(one, "w"), projector_of(method.init(tree(0)), "w"))
        eye = projector_of(one, "tall")
        torch.testing.assert_close(eye @ eye, eye, rtol=1e-5, atol=1e-5)
        if init == "given":
            torch.testing.assert_close(projector_of(one, "w"), bases["w"] @ bases["w"].mT)
    with pytest.raises(ValueError, match="leaf 'conv' needs a basis of shape"):
        gd.lordo(rank=3, init="given", bases={"w": bases["w"], "tall": bases["tall"]}).init(tree(0))


def test_a_first_gradient_that_is_not_finite_is_named() -> None:
    workers = Simulation(gd.lordo(rank=3, max_norm=None), tree(0), 2)
    bad = grads(1, 2)
    bad[1]["tall"][0, 0] = torch.inf
    with pytest.raises(ValueError, match="first gradients of leaf 'tall' is not finite"):
        workers.step(bad)


def test_a_reducer_of_another_shape_and_a_state_of_another_rank() -> None:
    params = tree(0)
    method = gd.lordo(rank=3, every=1)
    state = method.begin(tree(1), params, method.init(params), gd.one_worker)
    _, state = method.update(tree(1), state, params)
    with pytest.raises(ValueError, match="has shape"):
        method.sync(params, state, lambda values, op="mean": [v[None] for v in values])
    other = gd.lordo(rank=2, every=1)
    with pytest.raises(ValueError, match="needs a basis of shape"):
        other.sync(params, state, gd.one_worker)


def test_moments_that_are_kept_as_codes_are_refused() -> None:
    coded = gx.adam(mu_codec=gx.codecs.affine(8))
    workers = Simulation(LocalSteps(coded, (gd.average_moments(1, 1),)), tree(0), 2)
    with pytest.raises(ValueError, match="leaf 'w' keeps its 'mu' as Affine"):
        workers.step(grads(1, 2))
