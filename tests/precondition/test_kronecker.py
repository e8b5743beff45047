"""Preconditioners made of Kronecker factors: cuts, packing, bases, messages, bytes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
import gradtx_cuda

SHAPES: list[tuple[int, ...]] = [
    (),
    (1,),
    (7,),
    (4, 4),
    (5, 7),
    (11, 3),
    (2, 1, 6),
    (3, 4, 5),
    (0, 3),
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def after(tx: gx.GradientTransformation, shapes: dict[str, Any], steps: int = 7) -> Any:
    """Parameters and state after some steps on random gradients."""
    params: Any = {n: normal(*s, seed=i) for i, (n, s) in enumerate(shapes.items())}
    state = tx.init(params)
    for t in range(steps):
        grads = {n: normal(*s, seed=100 * t + i) for i, (n, s) in enumerate(shapes.items())}
        updates, state = tx.update(grads, state, params)
        params = gx.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [None, 1, 3])
@pytest.mark.parametrize("view", ["keep", "squeeze", "matrix", "merge_front", "merge_back"])
def test_blocks_come_back(shape: tuple[int, ...], size: int | None, view: Any) -> None:
    plan, x = gx.blocks(size, view=view).plan(shape), normal(*shape)
    stacks = plan.gather(x)
    assert torch.equal(plan.scatter(stacks), x)
    assert sum(s.numel() for s in stacks) == x.numel()
    assert size is None or all(max(s.shape[1:], default=0) <= size for s in stacks)
    assert hash(plan) == hash(gx.blocks(size, view=view).plan(shape))


def test_channels_that_are_last_are_merged_second() -> None:
    plan = gx.blocks(view="merge_front", limit=6, channels_last=True).plan((2, 3, 4, 3))
    x = normal(2, 3, 4, 3)
    (stack,) = plan.gather(x)
    assert torch.equal(stack, x.permute(0, 3, 1, 2).reshape(1, 6, 3, 4))
    assert torch.equal(plan.scatter([stack]), x)


RECIPES = {
    "dash": lambda packed: gx.dash(0.1, block_size=4, eps_inv_root=1e-3, packed=packed),
    "kl_shampoo": lambda packed: gx.kl_shampoo(0.1, precondition_frequency=2, packed=packed),
    "rekls": lambda packed: gx.rekls(0.1, eps=1e-2, packed=packed),
    "shampoo": lambda packed: gx.shampoo(0.1, eps=1e-2, packed=packed),
    "soap": lambda packed: gx.soap(0.1, precondition_frequency=2, packed=packed),
}


@pytest.mark.parametrize("name", RECIPES)
def test_packed_factors_change_nothing(name: str) -> None:
    shapes = {"a": (5, 5), "b": (4, 4), "v": (3,)}
    full, _ = after(RECIPES[name](False), shapes)
    packed, _ = after(RECIPES[name](True), shapes)
    for leaf in shapes:
        torch.testing.assert_close(packed[leaf], full[leaf], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_leaves_do_not_feel_their_batch(name: str) -> None:
    shapes = {"a": (5, 5), "b": (5, 5), "c": (5, 5)}
    together, _ = after(RECIPES[name](False), shapes)
    alone, _ = after(RECIPES[name](False), {"a": (5, 5)}, steps=1)
    first, _ = after(RECIPES[name](False), shapes, steps=1)
    torch.testing.assert_close(alone["a"], first["a"], rtol=1e-5, atol=1e-6)
    assert not torch.equal(together["a"], together["b"])


@pytest.mark.skipif(not gradtx_cuda.status().active, reason="no kernels")
@pytest.mark.parametrize("name", [*RECIPES, "dash by iterations"])
def test_a_leaf_alone_has_the_bits_that_it_has_among_others(name: str) -> None:
    """So that who owns shards of a tree steps as who has all of it."""
    newton = gx.inverse_roots.coupled_newton(10)
    make = {"dash by iterations": lambda _: gx.dash(0.1, inv_root_method=newton)} | RECIPES
    for n, m in ((40, 20), (37, 13)):  # whose matrices begin at even places in a stack, or do not
        shapes = {"b": (n, m), "c": (m, n), "a": (n, m), "v": (7,)}
        together, _ = after(make[name](False), shapes, steps=4)
        alone, _ = after(make[name](False), shapes | dict.fromkeys("bc", (1,)), steps=4)
        assert torch.equal(together["a"], alone["a"])


def test_large_bases_do_not_depend_on_threads() -> None:
    """As many are refreshed at a time as there are threads."""
    shapes = dict.fromkeys("abc", (130, 128))
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(after(gx.soap(0.1, precondition_frequency=2), shapes, steps=3)[0])
    finally:
        torch.set_num_threads(before)
    for leaf in shapes:
        assert torch.equal(found[0][leaf], found[1][leaf])


def test_moments_turn_with_the_basis() -> None:
    """An average kept in the basis is, seen from outside, the average itself."""
    g = [{"w": normal(6, 4, seed=i)} for i in range(9)]
    inside = gx.in_eigenbasis(gx.first_moment(0.8), basis=gx.eigenbasis(every=2))
    plain = gx.first_moment(0.8)
    state, other = inside.init(g[0]), plain.init(g[0])
    _, state = inside.update(g[0], state)
    for each in g[1:]:
        got, state = inside.update(each, state)
        want, other = plain.update(each, other)
        torch.testing.assert_close(got["w"], want["w"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [gx.soap, gx.kl_soap])
def test_products_in_bfloat16(make: Any) -> None:
    """State and updates stay in float32, and a step hardly changes; bases then drift apart."""
    shapes = {"a": (12, 9), "b": (9, 12), "v": (3,)}
    states, results = [], []
    for low in (None, torch.bfloat16):
        params, state = after(make(0.1, matmul_dtype=low), shapes, steps=2)
        results.append(params)
        states.append(gx.tree.leaves(state))
    assert [x.dtype for x in states[0]] == [x.dtype for x in states[1]]
    for leaf, want in results[0].items():
        off = (results[1][leaf] - want).norm() / want.norm()
        assert off < 0.1, leaf
    assert not torch.equal(results[0]["a"], results[1]["a"])


def grads_of(shape: tuple[int, ...], steps: int = 4) -> list[Tensor]:
    return [normal(*shape, seed=t).double() for t in range(steps)]


def direction(tx: gx.GradientTransformation, grads: list[Tensor]) -> Tensor:
    """The last of the updates."""
    params = {"w": torch.zeros_like(grads[0])}
    state = tx.init(params)
    for g in grads:
        updates, state = tx.update({"w": g}, state, params)
    return updates["w"]


def test_factors_of_shampoo_in_the_kl_form_are_sums_of_columns() -> None:
    """As Distributed Shampoo has them: R of W = L^(-1/4) G with the L of before, without a mean."""
    b2, eps, grads = 0.5, 0.1, grads_of((3, 2))
    tx = gx.shampoo(None, 0.0, b2, eps=eps, form="kl", grafting=None)
    sides, roots = (
        [torch.zeros(d, d).double() for d in (3, 2)],
        [torch.eye(d).double() for d in (3, 2)],
    )
    for t, g in enumerate(grads, 1):
        for k, w in enumerate((g @ roots[1], g.mT @ roots[0])):
            sides[k] = b2 * sides[k] + (1 - b2) * w @ w.mT
        roots = [gx.matrix_root(x[None] / (1 - b2**t), 4, eps=eps).root[0] for x in sides]
    torch.testing.assert_close(direction(tx, grads), roots[0] @ grads[-1] @ roots[1])


def eigen(form: Any, **options: Any) -> gx.GradientTransformation:
    return gx.shampoo(None, 0.0, 0.9, eps=1e-2, grafting=None, form=form, **options)


def test_bases_that_are_near_enough_are_kept() -> None:
    """Of "eigh" too: with a tolerance that all bases meet they stay the identity."""
    grads = grads_of((4, 4))
    exact, none = direction(eigen("eigh"), grads), direction(eigen("eigh", tolerance=1.0), grads)
    squares = gx.second_moment_power(0.9, 1e-2, debias=True)
    adam = gx.as_gradients(gx.quotient(gx.identity(), gx.on_gradients(squares)))
    torch.testing.assert_close(none, direction(adam, grads))
    torch.testing.assert_close(direction(eigen("eigh", tolerance=1e-9), grads), exact)
    some = [direction(eigen("eigh", tolerance=x), grads) for x in (0.05, 0.5)]
    assert not torch.equal(some[0], some[1])


def test_traces_scale_factors_under_the_ridge_of_the_qr_algorithm() -> None:
    """One gradient: steps from the identity with L / trace^e + eps I."""
    (g,) = grads_of((3, 3), 1)
    w = g
    for side in (g @ g.mT, g.mT @ g):
        e = side * side.trace() ** -0.5 + 1e-2 * torch.eye(3).double()
        q, r = torch.linalg.qr(e)
        w = w.mT @ q[:, torch.argsort((r @ q).diagonal())]
    turned = direction(eigen("qr", trace_scaling=0.5), [g])
    torch.testing.assert_close((turned.square().sum()), (w / (w.abs() + 1e-2)).square().sum())
    assert not torch.allclose(turned, direction(eigen("qr"), [g]))


@pytest.mark.parametrize("form", ["plain", "eigh"])
def test_factors_of_a_leaf_that_has_missed_steps(form: Any) -> None:
    """L <- b2 L + (1 - b2) G G^T, divided by 1 - b2^t with the steps of the group."""
    b2, eps, grads = 0.9, 0.1, grads_of((3, 3), 3)
    tx = gx.shampoo(None, 0.0, b2, eps=eps, form=form, grafting=None, counts="group")
    params = {"o": torch.zeros(2, 2), "w": torch.zeros(3, 3).double()}
    state, updates, sides, squares = tx.init(params), {}, [0.0, 0.0], 0.0
    for t, g in enumerate((grads[0], None, None, grads[1], grads[2]), 1):
        updates, state = tx.update({"o": torch.ones(2, 2), "w": g}, state, params)
        if g is None:
            continue
        outer = (g @ g.mT, g.mT @ g)
        sides = [b2 * x + (1 - b2) * y for x, y in zip(sides, outer, strict=True)]
        left, right = (x / (1 - b2**t) for x in sides)
        if form == "plain":
            roots = [gx.matrix_root(x[None], 4, eps=eps).root[0] for x in (left, right)]
            want = roots[0] @ g @ roots[1]
        else:
            q = [torch.linalg.eigh(x).eigenvectors for x in (left, right)]
            turned = q[0].mT @ g @ q[1]
            squares = b2 * squares + (1 - b2) * turned.square()
            want = q[0] @ (turned / ((squares / (1 - b2**t)).sqrt() + eps)) @ q[1].mT
        torch.testing.assert_close(updates["w"], want)


@pytest.mark.parametrize("weights", [[0.5, 0.5, 0.5], [0.5, 0.0, 0.9]])
@pytest.mark.parametrize("form", ["plain", "kl"])
def test_factors_are_what_they_were_and_products(weights: list[float], form: Any) -> None:
    how = gx.kronecker_factors(form=form)
    x, a = normal(3, 70, 20), normal(3, 70, 70, seed=1)
    factor, old = a @ a.mT, torch.tensor(weights, dtype=torch.float32)
    got = how.updated(factor, x, 0, old, 1 - old)
    for i, w in enumerate(weights):
        y = x[i].double()
        want = w * factor[i].double() + (1 - w) * y @ y.T / (20 if form == "kl" else 1)
        torch.testing.assert_close(got[i].double(), want, rtol=1e-5, atol=1e-4)
        part = slice(i, i + 1)
        alone = how.updated(factor[part], x[part], 0, old[part], 1 - old[part])
        assert torch.equal(got[part], alone)


def test_bases_stay_orthonormal() -> None:
    _, state = after(gx.soap(0.1, precondition_frequency=1), {"w": (8, 8)}, steps=40)
    for q in state["in_eigenbasis"].leaves["w"].bases[0]:
        torch.testing.assert_close(q.mT @ q, torch.eye(8)[None], rtol=0, atol=1e-5)


def test_staggered_leaves_refresh_at_different_steps() -> None:
    shapes = dict.fromkeys("abcdefgh", (3, 3))
    tx = gx.soap(0.1, precondition_frequency=4, staggered=True)
    phases = {
        int(s.phase)
        for s in tx.init({n: normal(*s) for n, s in shapes.items()})[
            "in_eigenbasis"
        ].leaves.values()
    }
    assert len(phases) > 1
    assert phases <= {0, 1, 2, 3}
    after(tx, shapes)


def test_a_root_that_fails_stays() -> None:
    root = gx.inverse_roots.coupled_newton(1)
    tx = gx.scale_by_inverse_roots(gx.kronecker_factors(1.0), root, tolerance=1e-6)
    grads = {"w": normal(4, 4)}
    updates, state = tx.update(grads, tx.init(grads))
    assert state["w"].failures == 1
    assert torch.equal(updates["w"], grads["w"])


def test_roots_that_keep_failing_raise() -> None:
    """Three refreshes in a row are tolerated, whatever lies between them; one that works resets."""
    root = gx.inverse_roots.coupled_newton(1)
    tx = gx.scale_by_inverse_roots(
        gx.kronecker_factors(1.0), root, every=2, start=2, tolerance=1e-6, failures=3
    )
    good, bad = {"v": normal(3), "w": normal(4, 4)}, {"v": normal(3), "w": normal(4, 4)}
    state = tx.init(good)
    for t in range(1, 8):
        _, state = tx.update(bad, state)
        assert int(state["w"].failures) == t // 2
    with pytest.raises(ValueError, match="leaf 'w': 4 refreshes of its roots in a row have failed"):
        tx.update(bad, state)
    late = {**state, "w": state["w"]._replace(failures=torch.tensor(4, dtype=torch.int32))}
    with pytest.raises(ValueError, match=r"leaf 'w'.*larger eps"):  # as another device shows it
        tx.update(bad, late)
    spoiled = gx.shampoo(0.1, precondition_frequency=1)
    params = {"v": normal(3), "w": normal(4, 4)}
    state = spoiled.init(params)
    for _ in range(2):
        _, state = spoiled.update(params, state, params)
    for bad_value in (math.nan, math.inf):  # at once
        one = {**params, "w": params["w"].index_fill(0, torch.tensor([2]), bad_value)}
        with pytest.raises(ValueError, match=r"leaf 'w'.*factors are not finite"):
            spoiled.update(one, state, params)
    many = gx.shampoo(0.1, tolerated_failures=None)
    after(many, {"w": (3, 3)})


@pytest.mark.parametrize("fused", [None, False])
def test_nothing_has_changed_when_roots_have_failed(fused: bool | None) -> None:
    root = gx.inverse_roots.coupled_newton(1)
    factors = gx.kronecker_factors(1.0)
    roots = gx.scale_by_inverse_roots(factors, root, tolerance=1e-6, failures=1)
    params = {"a": torch.nn.Parameter(normal(3)), "b": torch.nn.Parameter(normal(4, 4))}
    tx = gx.chain(roots, gx.scale_by_learning_rate(0.1))
    opt = gx.optim.from_transform(tx, params.items(), lr=0.1, fused=fused)
    for p in params.values():
        p.grad = normal(*p.shape)
    opt.step()
    before = params["a"].detach().clone()
    for _ in range(2):
        with pytest.raises(ValueError, match="leaf 'b': 2 refreshes of its roots in a row"):
            opt.step()
        assert torch.equal(params["a"], before)
    params["b"].grad = None
    opt.step()
    assert not torch.equal(params["a"], before)


def test_other_options_do_not_fit_a_state() -> None:
    params = {"w": normal(4, 6)}
    for make in (gx.scale_by_inverse_roots, lambda cut: gx.in_eigenbasis(gx.identity(), cut=cut)):
        state = make(cut=gx.blocks(2)).init(params)
        with pytest.raises(gx.TreeMismatchError, match="leaf 'w' of shape"):
            make(cut=gx.blocks(3)).update(params, state)


BAD: list[tuple[Any, str]] = [
    (lambda: gx.soap(precondition_frequency=0), "every must be an integer >= 1"),
    (lambda: gx.soap(max_precond_dim=0), "max_dim must be an integer >= 1 or None"),
    (lambda: gx.soap(shampoo_beta=1.5), r"b must be in \[0, 1\]"),
    (lambda: gx.soap(data_format="nhwc"), "data_format must be"),  # type: ignore[arg-type]
    (lambda: gx.soap(eps=-1.0), "eps must be"),
    (lambda: gx.dash(block_size=0), "size must be an integer >= 1"),
    (lambda: gx.dash(beta_lr=0.0), r"beta_lr must be in \(0, 1\]"),
    (lambda: gx.dash(eps_inv_root=-1.0), "eps must be in .0, inf."),
    (lambda: gx.dash(inv_root_freq=0), "every must be an integer >= 1"),
    (lambda: gx.dash(one_dim="sgd"), "one_dim must be one of"),  # type: ignore[arg-type]
    (lambda: gx.dash(inv_root_method="svd"), "method must be one of"),
    (lambda: gx.shampoo(eps=0.0), "eps must be > 0"),
    (
        lambda: gx.shampoo(precondition_frequency=4, start_preconditioning_step=3),
        "start_preconditioning_step must be >= precondition_frequency",
    ),
    (lambda: gx.shampoo(exponents={2: {3: 0.5}}), "name sides 0..1"),
    (lambda: gx.shampoo(grafting="lion"), "grafting must be one of"),  # type: ignore[arg-type]
    (lambda: gx.kl_shampoo(init_factor=0.0), "init must be > 0"),
    (lambda: gx.soap(matmul_dtype=torch.float16), "matmul_dtype must be None or torch.bfloat16"),
    (lambda: gx.in_eigenbasis(gx.identity(), matmul_dtype=torch.int8), "matmul_dtype must be"),
    (lambda: gx.kl_shampoo(clamp=9.0), "clamp must be in .10, inf."),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[text for _, text in BAD])
def test_bad_options(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_bytes_a_parameter() -> None:
    """Square blocks, packed: SOAP 5 floats, DASH 4 and, of the diagonal, 2 (d + 1) / d."""
    d = 64
    params = {"w": torch.zeros(d, d)}
    half = (d + 1) / (2 * d)
    assert math.isclose(total(gx.soap(packed=True), params), 16 + 8 * half, abs_tol=0.01)
    tx = gx.dash(packed=True, block_size=d)
    assert math.isclose(total(tx, params), 8 + 16 * half, abs_tol=0.01)


def test_bytes_of_sparse_windows() -> None:
    """Of a window of m: 6 m density + 4, in bfloat16 4 m density + 2, and 8 m^2 of products."""
    params = {"w": torch.zeros(512, 512)}
    for dtype, values, error in ((None, 6, 4), (torch.bfloat16, 4, 2)):
        tx = gx.sparse_mfac(window=100, density=0.01, dtype=dtype, error_dtype=dtype)
        want = values * 100 * 0.01 + error + 8 * 100**2 / 512**2
        assert math.isclose(total(tx, params), want, rel_tol=0.01)


def total(tx: gx.GradientTransformation, params: Any) -> float:
    """The state bytes that ``gx.explain`` shows."""
    rows = gx.explain(tx, params).splitlines()[1:]
    return sum(float(row.split()[-1]) for row in rows if row.split()[0] in tx.inner)
