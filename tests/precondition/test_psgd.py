"""PSGD: whitening, layouts, when factors are fitted, bounds, what is not finite, bad input."""

from __future__ import annotations

import math

import pytest
import torch

import gradtx as gx
from gradtx.core.execution import holds
from gradtx.precondition.psgd import factors, fit, norms, procrustes

F64 = torch.float64
FORMS = fit.FORMS


def kron(form="Q0.5EQ1.5", **options):
    options = {"whiten": "momentum", "init_scale": 1.0, "remember": "beta_l" in options, **options}
    return gx.precondition_by_kron(form, **options)


def run(tx, us, params=None):
    state = tx.init(params if params is not None else us[0])
    out = []
    for u in us:
        updates, state = tx.update(u, state, params)
        out.append(updates)
    return out, state


def correlated(steps, m=5, n=3, seed=0):
    """Gradients A Z B with white Z, and A and B."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(d, d, generator=generator) for d in (m, n))
    a, b = a + 2 * torch.eye(m), b + 2 * torch.eye(n)
    z = torch.randn(steps, m, n, generator=generator)
    return a @ z @ b


def learned(form, pairs, white=True, dims=(5, 3)):
    """Factors after a fit on every pair, (batch of one)."""
    qs, lengths = [torch.eye(d)[None] for d in dims], torch.zeros(1, len(dims))
    for x, v in pairs:
        qs, lengths = fit.fitted(form, qs, lengths, x[None], v[None], 0.2, 0.9, "column", white)
        lengths = torch.stack(lengths, 1)
    return qs


@pytest.mark.parametrize("form", FORMS)
def test_updates_become_white(form):
    gs = correlated(2500)
    qs = learned(form, [(g, torch.randn_like(g)) for g in gs[:500]])
    late, raw = fit.preconditioned(form, qs, gs[500:]).flatten(1), gs[500:].flatten(1)
    covariance = late.T @ late / len(late)
    condition = torch.linalg.cond(covariance)
    assert condition < 8
    assert condition < torch.linalg.cond(raw.T @ raw) / 20
    assert abs(covariance.diagonal().mean() - 1) < 0.4


@pytest.mark.parametrize("form", ["EQ", "QEQ", "QUAD4P"])
@pytest.mark.parametrize("mode", ["all_diag", "one_diag"])
def test_diagonals_whiten_scales(form, mode):
    sizes = torch.tensor([10.0, 1.0, 0.1, 3.0])
    generator = torch.Generator().manual_seed(0)
    us = [{"w": sizes[:, None] * torch.randn(4, 2, generator=generator)} for _ in range(150)]
    tx = kron(form, memory_save_mode=mode, max_skew=None, precond_lr=0.3)
    out, state = run(tx, us)
    shapes = [tuple(q.shape) for q in state["w"].factors]
    assert shapes == [(4,), (2,) if mode == "all_diag" else (2, 2)]
    rows = torch.stack([u["w"] for u in out[75:]]).square().mean((0, 2)).sqrt()
    assert (rows > 0.5).all()
    assert (rows < 1.8).all()


@pytest.mark.parametrize("form", FORMS)
def test_newton_steps_invert_the_hessian(form):
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(d, d, generator=generator) / 2 for d in (5, 3))
    left, right = left @ left.T + torch.eye(5), right @ right.T + torch.eye(3)
    vs = torch.randn(600, 5, 3, generator=generator)
    qs = learned(form, [(left @ v @ right, v) for v in vs], white=False)
    x = torch.randn(1, 5, 3, generator=generator)
    step = fit.preconditioned(form, qs, left @ x @ right)
    assert (step - x).norm() < 0.1 * x.norm()


def test_pairs_of_a_newton_fit_are_given():
    tx, g = kron(whiten="newton", max_skew=None), {"w": torch.zeros(2, 2)}
    state = tx.init(g)
    with pytest.raises(ValueError, match="needs probe; pass probe="):
        tx.update(g, state)
    for _ in range(200):
        v = {"w": torch.randn(2, 2)}
        _, state = tx.update(g, state, probe=v, hvp={"w": 10 * v["w"]})
    step, _ = tx.update({"w": torch.ones(2, 2)}, state, probe=v, hvp={"w": 10 * v["w"]})
    torch.testing.assert_close(step["w"], torch.full((2, 2), 0.1), rtol=0.05, atol=0.01)


# -- layouts -----------------------------------------------------------------------------------

LAYOUTS = [
    (factors.Layout(), (9, 6), (9, 6), (False, True)),
    (factors.Layout(), (6, 6), (6, 6), (True, True)),
    (factors.Layout(max_skew=4.0), (9, 6), (9, 6), (True, True)),
    (factors.Layout(max_size=6, max_skew=None), (9, 6), (9, 6), (False, True)),
    (factors.Layout(), (5,), (5,), (False,)),
    (factors.Layout(max_skew=5.0), (5,), (5,), (True,)),
    (factors.Layout(), (), (1,), (False,)),
    (factors.Layout(), (1, 4, 1, 4), (4, 4), (True, True)),
    (factors.Layout(max_skew=None, drop_units=False), (1, 4), (1, 4), (False, True)),
    (factors.Layout(max_skew=None, min_ndim=2), (5,), (5,), (False,)),
    (factors.Layout(max_skew=None, merge_dims=True), (4, 3, 2, 2), (24, 2), (True, True)),
    (factors.Layout(max_skew=None, merge_dims=True), (2, 3, 5), (6, 5), (True, True)),
    (factors.Layout(8, None, 0, "one_diag"), (4, 6, 6), (4, 6, 6), (True, True, False)),
    (factors.Layout(8, None, 0, "smart_one_diag"), (4, 6, 6), (4, 6, 6), (True, True, True)),
    (factors.Layout(8, None, 0, "smart_one_diag"), (7, 6, 6), (7, 6, 6), (False, True, True)),
    (factors.Layout(8, None, 0, "all_diag"), (4, 6), (4, 6), (False, False)),
]


@pytest.mark.parametrize(("layout", "shape", "dims", "dense"), LAYOUTS)
def test_layouts(layout, shape, dims, dense):
    assert layout.dims(shape) == dims
    assert layout.dense(dims) == dense


@pytest.mark.parametrize("form", FORMS)
def test_all_orders_of_tensors(form):
    shapes = [(), (1,), (3,), (2, 3), (2, 3, 2), (2, 1, 3, 2)]
    us = {f"x{i}": torch.randn(s) + 1 for i, s in enumerate(shapes)}
    out, state = run(kron(form, max_skew=None), [us, us])
    for name, u in us.items():
        assert out[-1][name].shape == u.shape
        assert out[-1][name].isfinite().all()
        numel = 1
        for q in state[name].factors:
            numel *= q.shape[-1]
        assert numel == max(u.numel(), 1)


@pytest.mark.parametrize("form", FORMS)
def test_the_product_with_a_dense_matrix(form):
    """Products side by side are those of the Kronecker product."""
    x = torch.randn(1, 3, 4, 2, dtype=F64)
    qs = [
        torch.randn(1, 3, 3, dtype=F64),
        torch.rand(1, 4, dtype=F64),
        torch.randn(1, 2, 2, dtype=F64),
    ]
    whole = torch.kron(torch.kron(qs[0][0], torch.diag(qs[1][0])), qs[2][0])
    p = whole if form in fit.FITS_P else whole.T @ whole
    want = (p @ x.flatten()).reshape(x.shape)
    torch.testing.assert_close(fit.preconditioned(form, qs, x), want)
    v = factors.solved([torch.triu(qs[0]) + 2 * torch.eye(3, dtype=F64), qs[1] + 1], x[..., 0])
    upper = torch.kron(torch.triu(qs[0][0]) + 2 * torch.eye(3, dtype=F64), torch.diag(qs[1][0] + 1))
    torch.testing.assert_close(upper.T @ v.flatten(), x[..., 0].flatten())


def test_leaves_of_one_shape_are_what_they_are_alone():
    us = [{k: torch.randn(4, 3) for k in "abc"} | {"d": torch.randn(3)} for _ in range(4)]
    for options in ({}, {"form": "EQ", "beta_l": 0.5, "balance": 0.5}):
        together, _ = run(kron(**options), us)
        for name in "abcd":
            alone, _ = run(kron(**options), [{name: u[name]} for u in us])
            for one, many in zip(alone, together, strict=True):
                torch.testing.assert_close(one[name], many[name], rtol=1e-5, atol=1e-6)


# -- when and from what ------------------------------------------------------------------------


def test_a_fit_every_so_many_updates_of_a_leaf():
    tx = kron(probability=0.4, balance=0.0)
    u = {"a": torch.randn(3, 3), "b": torch.randn(2, 2)}
    state, changed = tx.init(u), []
    for t in range(7):
        now = {**u, "b": None if t < 2 else u["b"]}
        before = state
        _, state = tx.update(now, state)
        changed.append(
            [not torch.equal(state[k].factors[0], before[k].factors[0]) for k in ("a", "b")]
        )
    assert [a for a, _ in changed] == [False, False, True, False, False, True, False]
    # A leaf that comes late counts for itself.
    assert [b for _, b in changed] == [False, False, False, False, True, False, False]


def test_the_first_scale():
    us = {"a": torch.full((2, 2), 3.0), "b": torch.full((3,), 0.5)}
    tx = kron(init_scale=None, probability=1e-9)
    assert not holds(tx, "leaves_independent")
    (first, second), _state = run(tx, [us, us])
    scale = 3.0 ** (-4 / 8)
    for out in (first, second):  # P = scale^2
        torch.testing.assert_close(out["a"], us["a"] * scale**2)
        torch.testing.assert_close(out["b"], us["b"] * scale**2)
    leaf = kron(init_scale="leaf", probability=1e-9)
    assert holds(leaf, "leaves_independent")
    (out,), _ = run(leaf, [us])
    for name, g in us.items():
        torch.testing.assert_close(out[name], g * g.flatten()[0] ** (-4 * 2 / 16))
    fits = kron("QUAD4P", init_scale=None, probability=1e-9)
    torch.testing.assert_close(run(fits, [us])[0][0]["a"], us["a"] * scale**2)


def test_gradients_are_whitened_under_momentum():
    tx = gx.chain(gx.trace(0.9), gx.precondition_by_kron(init_scale=1.0, balance=0.0))
    g, p = {"w": torch.randn(3, 3)}, {"w": torch.zeros(3, 3)}
    _, state = run(tx, [g, g], p)
    _, alone = run(kron(balance=0.0, remember=True), [g, g])
    key = "precondition_by_kron"
    for a, b in zip(state[key]["w"].factors, alone["w"].factors, strict=True):
        torch.testing.assert_close(a, b)


def test_noise_in_momentum_is_multiplied_too():
    u = {"w": torch.randn(3, 3)}
    options = {"noise": "recorded", "damping": 0.5, "probability": 1.0}
    noise = {"w": torch.ones(3, 3)}
    clean, noisy = (
        tx.update(u, tx.init(u), noise=noise)[0]["w"]
        for tx in (kron(**options), kron(noise_in_momentum=True, **options))
    )
    shifted = kron(update_first=True, **options)
    state = shifted.update(u, shifted.init(u), noise=noise)[1]
    want, _ = shifted.update({"w": u["w"] + 0.5}, state, noise=noise, hyper={"probability": 1e-9})
    torch.testing.assert_close(noisy, want["w"], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(clean, noisy)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_not_fitted(bad):
    u = {"w": torch.randn(3, 2), "x": torch.randn(3, 2)}
    tx = kron()
    _, state = run(tx, [u, u])
    wrong = {**u, "w": u["w"].clone()}
    wrong["w"][0, 0] = bad
    out, after = tx.update(wrong, state)
    for a, b in zip(after["w"].factors, state["w"].factors, strict=True):
        assert torch.equal(a, b)
    assert not out["w"].isfinite().all()
    assert out["x"].isfinite().all()
    assert (after["w"].skipped.item(), after["x"].skipped.item()) == (1, 0)
    assert not torch.equal(after["x"].factors[0], state["x"].factors[0])
    first = kron(init_scale=None)
    _, state = first.update(wrong, first.init(u))
    assert all(q.isfinite().all() for s in state.values() for q in s.factors)


@pytest.mark.parametrize("form", FORMS)
def test_zero_gradients_stay_finite(form):
    zero = {"w": torch.zeros(3, 2)}
    out, state = run(kron(form, damping=1.0), [zero] * 15)
    assert all(q.isfinite().all() for q in state["w"].factors)
    assert all(q.abs().max() < 100 for q in state["w"].factors)
    assert not out[-1]["w"].any()
    run(kron(form, damping=0.0, norm="exact"), [zero] * 3)


# -- parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["spd", "skew"])
def test_bounds(kind):
    x = torch.randn(6, 12, 12, dtype=F64)
    x = x @ x.mT if kind == "spd" else x - x.mT
    exact = norms.norm(x, "exact")
    torch.testing.assert_close(exact, torch.linalg.matrix_norm(x, 2))
    for how, least in (("column", 0.6), ("subspace", 0.85)):
        bound = norms.norm(x * 1e-25, how) * 1e25
        assert (bound <= exact * (1 + 1e-9)).all()
        assert (bound >= least * exact).all()
        assert not norms.norm(torch.zeros(2, 3, 3), how).any()


def test_rotations_make_a_matrix_symmetric():
    q = torch.linalg.qr(torch.randn(3, 5, 5, dtype=F64)).Q
    near = torch.eye(5, dtype=F64) + 0.1 * q
    for step, ratio in ((procrustes.second_order, 0.99), (procrustes.third_order, 0.95)):
        after = step(near, "exact")
        trace = after.diagonal(dim1=-2, dim2=-1).sum(-1)
        assert (trace >= near.diagonal(dim1=-2, dim2=-1).sum(-1)).all()
        off = torch.linalg.matrix_norm(after - after.mT)
        assert (off < ratio * torch.linalg.matrix_norm(near - near.mT)).all()
        symmetric = near + near.mT
        torch.testing.assert_close(step(symmetric, "exact"), symmetric)
    done = procrustes.until_symmetric(near, "exact")
    assert ((done - done.mT).abs() < 2e-3 * done.abs().amax()).all()


def test_balanced_factors_have_the_same_product():
    qs = [torch.randn(2, 3, 3), 100 * torch.randn(2, 4)]
    even = factors.balanced(qs)
    sizes = [q.abs().flatten(1).amax(1) for q in even]
    torch.testing.assert_close(sizes[0], sizes[1])
    whole = torch.kron(qs[0][0], torch.diag(qs[1][0]))
    torch.testing.assert_close(torch.kron(even[0][0], torch.diag(even[1][0])), whole)
    zero = [torch.zeros(1, 2, 2), torch.ones(1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(factors.balanced(zero), zero, strict=True))


# -- recipes and the sphere --------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda p: gx.optim.PSGD(p, lr=0.1, norm="subspace"),
        lambda p: gx.optim.PSGD(p, lr=0.1, momentum=0.9, whiten="momentum"),
        lambda p: gx.optim.PSGDKron(p, lr=0.1),
        lambda p: gx.optim.PSGDKron(p, lr=0.1, memory_save_mode="one_diag", probability=0.5),
        lambda p: gx.optim.PSGDKron(p, lr=0.1, memory_save_mode="all_diag", whiten="gradient"),
    ],
)
def test_ill_conditioned_regression(make):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=generator) * torch.logspace(0, -2, 6)
    goal = x @ torch.randn(6, 3, generator=generator)
    w = torch.nn.Parameter(torch.zeros(6, 3))
    optimizer = make([w])
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 120)
    for _ in range(120):
        optimizer.zero_grad()
        loss = (x @ w - goal).square().mean()
        loss.backward()
        optimizer.step()
        scheduler.step()
    assert loss < 1e-3 * goal.square().mean()


def test_the_probability_falls():
    kron = gx.psgd_kron().inner["precondition_by_kron"]
    for n, want in ((0, 1.0), (500, 1.0), (700, math.exp(-0.2)), (9000, 0.03)):
        assert abs(float(kron.probability(n)) - want) < 1e-6


def test_keep_norm():
    p = {"w": torch.randn(4, 3), "zero": torch.zeros(2)}
    u = {"w": 1e-3 * torch.randn(4, 3), "zero": torch.ones(2)}
    out, _ = gx.keep_norm(0.3).update(u, (), p)
    new = gx.apply_updates(p, out)
    torch.testing.assert_close(new["w"].norm(), p["w"].norm())
    r = p["w"].norm()
    q = p["w"] - 0.3 * r * u["w"] / u["w"].norm()
    torch.testing.assert_close(new["w"], q * r / q.norm())
    assert not new["zero"].any()
    same, _ = gx.keep_norm(0.3).update(gx.tree.zeros_like(u), (), p)
    torch.testing.assert_close(same["w"], torch.zeros(4, 3), rtol=0, atol=1e-6)


BAD = [
    (
        {"form": "QQ"},
        "form must be 'EQ', 'QEP', 'QEQ', 'Q0.5EQ1.5', 'QUAD', 'PRO4P' or 'QUAD4P', got 'QQ'",
    ),
    ({"norm": "two"}, "norm must be 'column', 'subspace' or 'exact'"),
    ({"whiten": "loss"}, "whiten must be 'gradient', 'momentum' or 'newton'"),
    (
        {"memory_save_mode": "none"},
        "memory_save_mode must be 'one_diag', 'smart_one_diag', 'all_diag' or None",
    ),
    ({"noise": "off"}, "noise must be 'drawn' or 'recorded'"),
    ({"relative_damping": "row"}, "relative_damping must be 'entry' or 'mean'"),
    ({"precond_lr": 0.0}, r"precond_lr must be in \(0, 1\], got 0"),
    ({"beta_l": 1.5}, r"beta_l must be in \(0, 1\]"),
    ({"damping": -1.0}, r"damping must be in \[0, inf\)"),
    ({"probability": 0.0}, r"probability must be in \(0, 1\]"),
    ({"balance": 2.0}, r"balance must be in \[0, 1\]"),
    ({"init_scale": 0.0}, "init_scale must be a number > 0, None or 'leaf', got 0"),
    ({"init_scale": "tree"}, "init_scale must be"),
    ({"max_size": 0.5}, "max_size must be in .1, inf."),
    ({"max_skew": 0.0}, "max_skew must be in .0, inf."),
    ({"min_ndim": -1}, "min_ndim must be an integer >= 0"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[m[:30] for _, m in BAD])
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        gx.precondition_by_kron(**options)


def test_bad_input_of_recipes():
    with pytest.raises(ValueError, match="whiten='momentum' needs momentum > 0"):
        gx.psgd(whiten="momentum")
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\)"):
        gx.psgd(momentum=1.0)
    with pytest.raises(ValueError, match=r"eps must be in \(0, inf\)"):
        gx.keep_norm(0.1, eps=0.0)
