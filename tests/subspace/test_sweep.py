"""Orthonormal bases by Cholesky decompositions, and LDAdam's step for several leaves at once."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx
from gradtx.subspace.orthonormal import divided, orthonormal
from gradtx.subspace.projector import canonical
from gradtx.subspace.svd import left_vectors

s = gx.subspace


def by_products(y):
    """What other devices than the CPU do."""
    return canonical(divided(y, lambda: torch.linalg.qr(y).Q))


@pytest.mark.parametrize("decompose", [orthonormal, by_products])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [0.0, 3.0, 6.0])
def test_bases_are_those_of_householder(spread, dtype, decompose):
    y = torch.randn(3, 40, 8, dtype=torch.float64) * torch.logspace(0, -spread, 8)
    q = decompose(y.to(dtype))
    eps = torch.finfo(dtype).eps
    assert q.dtype == dtype
    torch.testing.assert_close(
        q.mT @ q, torch.eye(8, dtype=dtype).expand(3, 8, 8), rtol=0, atol=9 * eps
    )
    want = canonical(torch.linalg.qr(y.to(dtype).double()).Q)
    torch.testing.assert_close(q.double(), want, rtol=0, atol=300 * eps)


@pytest.mark.parametrize("decompose", [orthonormal, by_products])
@pytest.mark.parametrize("kind", ["zeros", "dependent", "tiny", "large"])
def test_dependent_columns_and_odd_sizes(kind, decompose):
    y = torch.randn(2, 9, 4)
    if kind == "zeros":
        y[0] = 0
    elif kind == "dependent":
        y[0, :, 2] = 2 * y[0, :, 1]
    else:
        y = y * (1e-30 if kind == "tiny" else 1e30)
    q = decompose(y)
    torch.testing.assert_close(q.mT @ q, torch.eye(4).expand(2, 4, 4), rtol=0, atol=2e-6)
    span = torch.linalg.qr(y[1].double()).Q.float()
    torch.testing.assert_close(span @ (span.mT @ q[1]), q[1], rtol=0, atol=1e-5)


def grads(t, shapes):
    g = torch.Generator().manual_seed(t)
    return {k: torch.randn(shape, generator=g) for k, shape in shapes.items()}


@pytest.mark.parametrize("side", ["std_left", "left", "right", "reverse_std"])
def test_leaves_of_one_shape_are_treated_as_each_alone(side):
    tx = gx.scale_by_ldadam(s.power_iteration(2, side=side))
    shapes = {"a": (6, 4), "b": (6, 4), "c": (4, 6), "v": (5,), "d": (6, 4)}
    params = grads(99, shapes)
    state, alone = tx.init(params), {k: tx.init({k: p}) for k, p in params.items()}
    for t in range(4):
        # One leaf joins late: its first step is another's third.
        present = {k: g for k, g in grads(t, shapes).items() if k != "d" or t >= 2}
        given = {k: present.get(k) for k in shapes}
        hyper = {"b1": {"a": 0.5, "b": None, "c": None, "v": 0.1, "d": None}}
        out, state = tx.update(given, state, None, hyper=hyper)
        for k, g in present.items():
            own = {"b1": {k: hyper["b1"][k]}}
            want, alone[k] = tx.update({k: g}, alone[k], None, hyper=own)
            torch.testing.assert_close(out[k], want[k], rtol=1e-4, atol=1e-5)
            for x, y in zip(gx.tree.leaves(state[k]), gx.tree.leaves(alone[k][k]), strict=True):
                torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def published(g, state, b1, b2=0.99, rho=0.908):
    """LDAdam's step as it is written, from the left, in the dtype of g."""
    e, p, m, v, k = state
    a = g + e
    c1, c2 = (1 - b1**k if k else 1.0), (1 - b2**k if k else 1.0)
    b = rho * (p @ m) / c1 + (1 - rho) * a
    q = canonical(
        torch.linalg.qr(b @ (b.mT @ p)).Q if k else torch.linalg.svd(a)[0][:, : p.shape[1]]
    )
    z, r = q.mT @ a, q.mT @ p
    e = a - q @ z + b1 / (1 - b1) * (p @ m - q @ (r @ m))
    v = c2 * ((r * r) @ (v / c2 - (m / c1) ** 2) + (r @ m / c1) ** 2).abs()
    return e, q, b1 * (r @ m) + (1 - b1) * z, b2 * v + (1 - b2) * z * z, k + 1


@pytest.mark.parametrize("projector", [s.power_iteration(3), s.power_iteration(3, side="right")])
def test_what_is_left_out_follows_a_changing_decay(projector):
    tx, shape = gx.scale_by_ldadam(projector, eps=0.0), (7, 9)
    turn = projector.side == "right"
    state = tx.init({"w": torch.zeros(*(shape[::-1] if turn else shape), dtype=torch.float64)})
    want = torch.zeros(shape), torch.zeros(7, 3), torch.zeros(3, 9), torch.zeros(3, 9)
    want = (*(x.double() for x in want), 0)
    for t, b1 in enumerate([0.5, 0.9, 0.9, 0.0, 0.7, 0.99]):
        g = grads(t, {"w": shape})["w"].double()
        _, state = tx.update({"w": g.mT.contiguous() if turn else g}, state, hyper={"b1": b1})
        want = published(g, want, b1)
        e = tx.left_out(state["w"], tuple(g.mT.shape) if turn else shape)
        torch.testing.assert_close(e.mT if turn else e, want[0], rtol=1e-9, atol=1e-9)


def test_what_is_left_out_stays_outside_the_subspace():
    tx = gx.scale_by_ldadam(s.power_iteration(4))
    state = tx.init({"w": torch.zeros(24, 16)})
    for t in range(300):
        _, state = tx.update(grads(t, {"w": (24, 16)}), state)
    e = tx.left_out(state["w"], (24, 16))
    inside = tx.projector.project(state["w"].projector, e)
    assert inside.abs().max() < 1e-4 * e.abs().max()


def test_one_call_per_shape(monkeypatch):
    module = __import__("gradtx.subspace.ldadam", fromlist=["sweep"])
    inner, seen = module.sweep, []
    monkeypatch.setattr(module, "sweep", lambda x, *a: seen.append(tuple(x.shape)) or inner(x, *a))
    tx = gx.scale_by_ldadam(s.power_iteration(2))
    params = {f"{i}": torch.randn(6, 4) for i in range(3)} | {"w": torch.randn(4, 5)}
    params |= {"large": torch.randn(256, 256), "other": torch.randn(256, 256)}
    tx.update(params, tx.init(params))
    assert seen == [(3, 6, 4), (1, 4, 5), (1, 256, 256), (1, 256, 256)]


@pytest.mark.parametrize("field", ["mu", "nu", "total"])
def test_a_state_of_another_shape_is_refused_before_anything_is_overwritten(field):
    tx, params = gx.scale_by_ldadam(s.power_iteration(2)).low_rank_form(), grads(0, {"a": (6, 4)})
    params["w"] = torch.randn(300, 256)
    _, state = tx.update(params, tx.init(params))
    state["a"] = state["a"]._replace(**{field: torch.zeros(2, 3)})
    before = [x.clone() for x in gx.tree.leaves(state)]
    with pytest.raises(gx.TreeMismatchError, match=rf"'a'.*state {field}"):
        tx.update(params, state)
    for x, y in zip(gx.tree.leaves(state), before, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("shape", [(300, 256), (256, 300)])
@pytest.mark.parametrize("feedback", [False, True])
def test_kernels_give_what_the_formulas_give(feedback, shape, monkeypatch):
    module = __import__("gradtx.subspace.ldadam_sweep", fromlist=["is_plain"])
    tx = gx.scale_by_ldadam(s.power_iteration(8), error_feedback=feedback)
    state = other = tx.init(torch.zeros(shape))
    for t in range(3):
        g = grads(t, {"w": shape})["w"]
        kept = [x.clone() for x in gx.tree.leaves((g, state))]
        with monkeypatch.context() as patch:
            patch.setattr(module, "is_plain", lambda *xs: False)
            want, other = tx.update(g, other)
        out, new = tx.update(g, state)
        for x, y in zip(gx.tree.leaves((g, state)), kept, strict=True):
            assert torch.equal(x, y)
        state = new
        for x, y in zip(gx.tree.leaves((out, new)), gx.tree.leaves((want, other)), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


def test_a_gradient_that_is_not_finite_leaves_the_subspace():
    tx = gx.scale_by_ldadam(s.power_iteration(2))
    params = {k: torch.randn(6, 4) for k in "ab"}
    _, state = tx.update(params, tx.init(params))
    bad = {"a": torch.full((6, 4), torch.inf), "b": torch.randn(6, 4)}
    _, after = tx.update(bad, state)
    assert torch.equal(after["a"].projector.basis, state["a"].projector.basis)
    assert not torch.equal(after["b"].projector.basis, state["b"].projector.basis)
    assert after["b"].projector.basis.isfinite().all()


@pytest.mark.parametrize("shape", [(2, 6, 40), (2, 6, 8), (2, 8, 6)])
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_left_vectors_are_those_of_the_decomposition(shape, spread):
    k = min(shape[1:])
    u = torch.linalg.qr(torch.randn(2, shape[1], k, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(2, shape[2], k, dtype=torch.float64)).Q
    x = ((u * torch.logspace(0, -spread, k)) @ v.mT).float()
    got = canonical(left_vectors(x))
    want = canonical(torch.linalg.svd(x.double(), full_matrices=False)[0])
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-6 * 10**spread)
    torch.testing.assert_close(got.mT @ got, torch.eye(k).expand(2, k, k), rtol=0, atol=2e-6)


def test_left_vectors_of_matrices_without_full_rank():
    for x in (torch.zeros(3, 9), torch.ones(3, 9), torch.randn(3, 1) @ torch.randn(1, 9)):
        q = left_vectors(x)
        torch.testing.assert_close(q.mT @ q, torch.eye(3), rtol=0, atol=2e-6)
        torch.testing.assert_close(q[:, :1] @ (q[:, :1].mT @ x), x, rtol=1e-5, atol=1e-6)


def in_subspace(projector, refresh):
    return gx.in_subspace(projector, gx.trace(0.9), refresh)


def momentum(projector, refresh):
    return gx.subspace_momentum(projector, refresh=refresh, on_refresh="rotate")


def projected(projector, refresh):
    return gx.chain(gx.project_to_subspace(projector, refresh), gx.lift())


@pytest.mark.parametrize("within", [in_subspace, momentum, projected])
@pytest.mark.parametrize("kind", [s.svd, s.qr_sketch, s.randomized_svd])
@pytest.mark.parametrize("refresh", [s.zero_based(2), s.staggered(2)])
def test_refreshes_of_one_shape_are_those_of_each_alone(within, kind, refresh, monkeypatch):
    tx = within(kind(2), refresh)
    shapes = {"a": (6, 4), "b": (6, 4), "c": (4, 9), "v": (5,), "d": (6, 4)}
    params = grads(99, shapes)
    state, alone = tx.init(params), {k: tx.init({k: p}) for k, p in params.items()}
    for t in range(4):
        given = {k: g if k != "d" or t >= 1 else None for k, g in grads(t, shapes).items()}
        out, state = tx.update(given, state)
        for k, g in given.items():
            if g is not None:
                want, alone[k] = tx.update({k: g}, alone[k])
                torch.testing.assert_close(out[k], want[k], rtol=1e-4, atol=1e-5)
    seen = []
    monkeypatch.setattr(
        kind, "vectors", lambda self, x, *_: seen.append(tuple(x.shape)) or x[..., :2]
    )
    tx.update(params, tx.init(params))
    assert seen == [(3, 4, 6), (1, 4, 9)]
