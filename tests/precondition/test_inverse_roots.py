"""Inverse roots: exactness, zeros, failures, stopping, derivatives, maps, bad input."""

from __future__ import annotations

import copy
import importlib
import pickle

import pytest
import torch

import gradtx as gx
from gradtx.core import decompositions
from gradtx.precondition.inverse_roots import (
    METHODS,
    chebyshev,
    coupled_newton,
    evd,
    frobenius,
    higher_order_newton,
    newton_db,
    power_iteration,
    root_residual,
)

F64 = torch.float64
# What follows the iterations follows as many as there may be.
SHORT = ["evd", coupled_newton(10), higher_order_newton(steps=7), newton_db(10), "chebyshev"]
RULES = ("shift", "shift_then_add", "shift_and_add", "abs", "abs_add", "relu", "pseudo_inverse")


def stack(*conditions, n=7, dtype=F64, seed=0):
    """Matrices of these condition numbers, largest eigenvalues 1, 4, 16, ..., and their factors."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(len(conditions), n, n, dtype=F64, generator=generator)).Q
    values = torch.stack(
        [
            4.0**i * torch.logspace(0, -float(torch.tensor(c).log10()), n, dtype=F64)
            for i, c in enumerate(conditions)
        ]
    )
    return ((q * values[:, None]) @ q.mT).to(dtype), q, values


def power(q, values, p):
    return (q * values[:, None] ** (-1 / p)) @ q.mT


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("p", [2, 4])
def test_roots_of_well_conditioned_matrices(name, p):
    a, q, values = stack(10, 30, 1.5)
    result = gx.matrix_root(a, p, name, residual=True)
    tolerance = 2e-2 if name == "chebyshev" else 1e-6
    torch.testing.assert_close(result.root, power(q, values, p), rtol=tolerance, atol=tolerance)
    assert not result.failed.any()
    assert not result.zero.any()
    assert (result.residual < 10 * tolerance).all()


@pytest.mark.parametrize(
    ("name", "p"),
    [
        ("evd", 3),
        ("evd", 0.7),
        ("chebyshev", 2.5),
        ("coupled_newton", 1),
        ("coupled_newton", 3),
        ("coupled_newton", 6),
        ("higher_order_newton", 4 / 3),
        ("higher_order_newton", 5 / 2),
    ],
)
def test_other_roots(name, p):
    a, q, values = stack(10, 3)
    root = gx.matrix_root(a, p, name).root
    tolerance = 2e-2 if name == "chebyshev" else 1e-6
    torch.testing.assert_close(root, power(q, values, p), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("mode", ["absolute", "relative"])
def test_the_ridge(name, mode):
    a, q, values = stack(100, 100)
    size = torch.linalg.matrix_norm(a)[:, None] if mode == "relative" else 1.0
    root = gx.matrix_root(a, 2, name, eps=0.1, eps_mode=mode).root
    tolerance = 2e-2 if name == "chebyshev" else 1e-6
    want = power(q, values + 0.1 * size, 2)
    torch.testing.assert_close(root, want, rtol=tolerance, atol=tolerance)
    each = torch.tensor([0.1, 0.1], dtype=F64)[:, None, None]
    again = gx.matrix_root(a, 2, name, eps=each, eps_mode=mode).root
    torch.testing.assert_close(again, root, rtol=1e-12, atol=1e-12)


def test_rules_of_the_decomposition():
    q = stack(1, n=3)[1]
    values = torch.tensor([-0.1, 0.05, 2.0], dtype=F64)
    a, e, rtol = (q * values) @ q.mT, 0.01, 0.04
    expected = {
        "shift": values + 0.1 + e,
        "shift_then_add": values + 0.1 + e,
        "shift_and_add": values + e + 0.09 + e,
        "abs": values.abs(),
        "abs_add": values.abs() + e,
        "relu": torch.where(values > e, values, torch.inf),
        "pseudo_inverse": torch.where(values > rtol * 2, values, torch.inf),
    }
    assert set(expected) == set(RULES)
    for rule, x in expected.items():
        eps = 0.0 if rule == "pseudo_inverse" else e
        method = evd(rule, rank_rtol=rtol if rule == "pseudo_inverse" else None)
        root = gx.matrix_root(a, 4, method, eps=eps).root
        torch.testing.assert_close(root, (q * x**-0.25) @ q.mT, rtol=1e-9, atol=1e-9)
    # Without need "shift" leaves eigenvalues as they are.
    high = (q * (values + 1)) @ q.mT
    torch.testing.assert_close(
        gx.matrix_root(high, 4, eps=e).root, (q * (values + 1 + e) ** -0.25) @ q.mT
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("p", [2, 4])
def test_zeros_and_what_is_not_finite(name, p):
    a, _q, _values = stack(4, 4, 4, n=3, dtype=torch.float32)
    a[0] = 0
    a[1, 0, 2] = torch.nan
    previous = torch.randn_like(a)
    result = gx.matrix_root(a, p, name, eps=1e-3, previous=previous)
    torch.testing.assert_close(result.root[0], 1e-3 ** (-1 / p) * torch.eye(3))
    torch.testing.assert_close(result.root[1], previous[1])
    assert result.failed.tolist() == [False, True, False]
    assert not result.zero.any()
    for mode in ("absolute", "relative"):
        result = gx.matrix_root(a, p, name, eps=0.0, eps_mode=mode, previous=previous)
        torch.testing.assert_close(result.root[0], torch.eye(3))
        assert result.failed.tolist() == [False, True, False]
        assert result.zero.tolist() == [True, False, False]
    with pytest.raises(ValueError, match="matrix 1 of 3 is not finite"):
        gx.matrix_root(a, p, name)


def test_the_smallest_eigenvalue_that_is_shifted_is_the_ridge():
    """However far below zero rounding has put it: in float32 that is many times the ridge."""
    x = 30 * torch.randn(8, 12, 3, generator=torch.Generator().manual_seed(0))
    got = gx.matrix_root(x @ x.mT, 4, gx.inverse_roots.evd("shift", dtype=None), eps=1e-12)
    assert not got.failed.any()
    largest = torch.linalg.eigvalsh(got.root.double())[:, -1]
    torch.testing.assert_close(largest, torch.full_like(largest, 1000.0), rtol=0.01, atol=0.0)


@pytest.mark.parametrize("rule", ["relu", "pseudo_inverse"])
def test_roots_that_leave_out_zeros(rule):
    result = gx.matrix_root(torch.zeros(1, 2, 2), 2, evd(rule))
    assert not result.root.any()
    assert result.zero.all()
    assert not result.failed.any()


def test_a_singular_matrix_without_a_ridge_fails():
    a = torch.diag(torch.tensor([1.0, 0.0]))[None]
    result = gx.matrix_root(a, 2, evd("abs"))
    assert result.failed.all()
    assert result.root.isnan().all()
    kept = gx.matrix_root(a, 2, evd("abs"), previous=torch.eye(2)[None])
    assert kept.failed.all()
    assert torch.equal(kept.root[0], torch.eye(2))
    assert not gx.matrix_root(a, 2, evd("shift"), eps=1e-4).failed.any()


def test_a_residual_above_the_tolerance_fails():
    a = stack(2, 1e4, dtype=torch.float32)[0]
    method = coupled_newton(4)
    result = gx.matrix_root(a, 4, method, previous=torch.zeros_like(a), tolerance=0.1)
    assert result.failed.tolist() == [False, True]
    assert not result.root[1].any()
    assert result.root[0].any()
    torch.testing.assert_close(
        result.residual, root_residual(a, gx.matrix_root(a, 4, method).root, 4)
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e30])
def test_sizes(name, size):
    a, q, values = stack(10, 3, dtype=torch.float32)
    root = gx.matrix_root(a * size, 4, name).root * size**0.25
    tolerance = 2e-2 if name == "chebyshev" else 1e-5
    want = power(q, values, 4).float()
    torch.testing.assert_close(root, want, rtol=tolerance, atol=tolerance)


def test_every_matrix_stops_by_itself():
    a = stack(1.1, 1e3, 20, dtype=torch.float32)[0]
    method = coupled_newton(40)
    for x in (a, a.double()):
        together = gx.matrix_root(x, 4, method).root
        alone = torch.cat([gx.matrix_root(one[None], 4, method).root for one in x])
        torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-7)
    # Recorded operations cannot look at values: frozen matrices are carried along.
    recorded = torch.func.vmap(lambda x: gx.matrix_root(x[None], 4, method).root[0])(a.double())
    torch.testing.assert_close(recorded, alone, rtol=1e-6, atol=1e-7)
    never = gx.matrix_root(a, 4, coupled_newton(12, stop="never")).root
    stack_wide = gx.matrix_root(a, 4, coupled_newton(12, tol=0.0, stop="stack")).root
    assert torch.equal(never, stack_wide)


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
def test_halves_of_products(p):
    """Up to twice the error of whole products."""
    a, q, values = stack(10, 1e3, 1e4, n=24, dtype=torch.float32)
    want = power(q, values, p)
    halves, whole = (
        gx.matrix_root(a, p, coupled_newton(30, halves=halves)).root.double()
        for halves in (True, False)
    )
    limit = 3 * (whole - want).flatten(1).norm(dim=1) + 1e-6 * want.flatten(1).norm(dim=1)
    assert ((halves - want).flatten(1).norm(dim=1) <= limit).all()


def test_halves_of_products_in_bfloat16():
    """As exact as whole ones, of which the roundings of factors are the error."""
    a, q, values = stack(4, 10, 30, n=40, dtype=torch.float32)
    want = power(q, values, 4)
    errors = [
        (gx.matrix_root(a, 4, method).root.double() - want).flatten(1).norm(dim=1)
        for method in (
            coupled_newton(10, matmul_dtype=torch.bfloat16, halves=halves)
            for halves in (True, False)
        )
    ]
    assert (errors[0] <= 1.5 * errors[1]).all()


@pytest.mark.parametrize("stop", ["matrix", "stack"])
def test_looking_at_values_changes_nothing(stop, monkeypatch):
    a = stack(1.1, 1e3, 20, 5)[0]
    method = coupled_newton(40, stop=stop)
    looking = gx.matrix_root(a, 4, method).root
    module = importlib.import_module("gradtx.ops.coupled_newton")
    monkeypatch.setattr(module, "may_look", lambda x: False)
    torch.testing.assert_close(gx.matrix_root(a, 4, method).root, looking, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("condition", [1e6, 1e8, 1e10])
def test_a_relative_ridge_keeps_every_condition_finite(name, condition):
    a = stack(condition, condition, n=24, dtype=torch.float32)[0]
    options = {"eps": 1e-7, "eps_mode": "relative"}
    for p in (2, 4):
        result = gx.matrix_root(a, p, name, previous=torch.eye(24).expand(2, 24, 24), **options)
        assert result.root.isfinite().all()
        if name != "higher_order_newton":  # which gives up by itself
            assert not result.failed.any()


@pytest.mark.parametrize(
    "method",
    [
        coupled_newton(20),
        coupled_newton(10, stop="never"),
        coupled_newton(20, halves=True),
        coupled_newton(10, matmul_dtype=torch.bfloat16),
        coupled_newton(10, matmul_dtype=torch.bfloat16, halves=True),
        newton_db(10),
        chebyshev(20),
        evd(dtype=None),
    ],
    ids=repr,
)
@pytest.mark.parametrize("n", [7, 80])
def test_a_root_is_the_same_in_every_stack(method, n):
    a = stack(1.1, 1e2, 20, 5, 3, n=n, dtype=torch.float32)[0]
    together = gx.matrix_root(a, 4, method, eps=1e-3).root
    alone = torch.cat([gx.matrix_root(x, 4, method, eps=1e-3).root for x in a.split(1)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [coupled_newton, newton_db])
def test_lower_precision(make, dtype):
    a, q, values = stack(10, 10, dtype=torch.float32)
    root = gx.matrix_root(a, 4, make(10, matmul_dtype=dtype)).root
    want = power(q, values, 4).float()
    off = torch.linalg.matrix_norm(root - want) / torch.linalg.matrix_norm(want)
    eps = torch.finfo(dtype).eps
    assert (off < 4 * eps).all()
    assert (off > eps / 100).all()
    assert root.dtype == torch.float32


def test_float64_inside():
    a = stack(1e6, 1e6, n=24)[0]
    low = a.float()
    exact = gx.matrix_root(low.double(), 4).root
    for method in (evd(), coupled_newton(dtype=F64), newton_db(dtype=F64)):
        root = gx.matrix_root(low, 4, method).root
        assert root.dtype == torch.float32
        torch.testing.assert_close(root.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vectors", [1, 16])
def test_power_iterations(vectors):
    a, q, values = stack(10, 1e3, n=24)
    scaling = power_iteration(vectors=vectors)
    for c in (scaling(a, None), scaling(a, torch.ones(2, 24, vectors))):
        estimate = c[:, 0, 0] / 2
        assert (estimate <= values[:, 0] * 1.001).all()
        assert (estimate > 0.8 * values[:, 0]).all()
    assert torch.equal(scaling(a, None), scaling(a.clone(), None))
    root = gx.matrix_root(a, 4, newton_db(40, scaling)).root
    torch.testing.assert_close(root, power(q, values, 4), rtol=1e-6, atol=1e-6)
    low = power_iteration(vectors=vectors, dtype=torch.bfloat16)(a.float(), None)
    assert low.dtype == (torch.bfloat16 if vectors == 1 else torch.float32)


FORWARD_MODE = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


@FORWARD_MODE
@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("p", [2, 4])
def test_derivatives(name, p):
    a = stack(10, 3, n=4)[0]

    def root(x):
        return gx.matrix_root(x + x.mT, p, name, eps=1e-2).root

    a = a / 2
    assert torch.autograd.gradcheck(root, (a.requires_grad_(),), check_forward_ad=True)
    weights = torch.randn_like(a)
    loss = lambda x: (weights * root(x)).sum()  # noqa: E731
    gradient = torch.func.grad(loss)(a.detach())
    each = torch.func.vmap(torch.func.grad(lambda x, w: (w * root(x[None])[0]).sum()))
    torch.testing.assert_close(each(a.detach(), weights), gradient, rtol=1e-7, atol=1e-8)


@FORWARD_MODE
@pytest.mark.parametrize("rule", RULES)
def test_derivatives_of_rules(rule):
    q = stack(1, n=4)[1]
    a = (q * torch.tensor([-0.2, 0.4, 1.0, 3.0], dtype=F64)) @ q.mT / 2
    method = evd(rule, rank_rtol=0.05 if rule == "pseudo_inverse" else None)
    eps = 0.0 if rule == "pseudo_inverse" else 0.03

    def root(x):
        return gx.matrix_root(x + x.mT, 4, method, eps=eps).root

    assert torch.autograd.gradcheck(root, (a.requires_grad_(),), check_forward_ad=True)


@pytest.mark.parametrize("name", ["evd", "coupled_newton", "newton_db"])
def test_derivatives_at_equal_eigenvalues(name):
    a = 4 * torch.eye(3, dtype=F64)[None]
    gradient = torch.func.grad(lambda x: gx.matrix_root(x, 2, name).root.sum())(a)
    torch.testing.assert_close(gradient, torch.full_like(a, -1 / 16), rtol=1e-6, atol=1e-6)


def test_second_derivatives_of_the_decomposition():
    a = stack(10, n=3)[0]
    assert torch.autograd.gradgradcheck(
        lambda x: gx.matrix_root(x + x.mT, 2).root, (a.requires_grad_(),)
    )


def test_derivatives_of_zeros_and_failures_are_finite():
    a = torch.zeros(2, 3, 3, dtype=F64)
    a[1, 0, 0] = torch.inf
    previous = torch.ones_like(a)
    for name in METHODS:
        loss = lambda x, name=name: gx.matrix_root(x, 2, name, previous=previous).root.sum()  # noqa: E731
        assert not torch.func.grad(loss)(a).any()


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_changed_and_the_map_over_an_ensemble_agrees(name):
    a = torch.stack([stack(3, 10)[0], stack(5, 2, seed=1)[0]])
    before = a.clone()
    mapped = torch.func.vmap(lambda x: gx.matrix_root(x, 4, name))(a)
    for i in range(2):
        one = gx.matrix_root(a[i], 4, name)
        torch.testing.assert_close(mapped.root[i], one.root, rtol=1e-9, atol=1e-10)
        assert torch.equal(mapped.failed[i], one.failed)
    assert torch.equal(a, before)


@pytest.mark.parametrize("name", SHORT)
def test_compiled(name):
    a = stack(3, 10, dtype=torch.float32)[0]

    def run(x):
        return gx.matrix_root(x, 4, name, eps=1e-3, residual=True)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(tuple(compiled(a)), tuple(run(a)), rtol=1e-5, atol=1e-5)


def test_in_autocast_regions_nothing_changes():
    a = stack(3, 10, dtype=torch.float32)[0]
    plain = gx.matrix_root(a, 4, "newton_db").root
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gx.matrix_root(a, 4, "newton_db").root, plain)


def test_a_decomposition_that_does_not_converge_is_tried_in_float64(monkeypatch):
    a, q, values = stack(3, 10, dtype=torch.float32)
    original, seen = decompositions.eigh, []

    def fragile(x):
        seen.append((x.dtype, x.ndim))
        if x.dtype == torch.float32:
            raise torch.linalg.LinAlgError("failed to converge")
        if x.ndim == 2 and torch.equal(x.float(), a[1]):
            raise torch.linalg.LinAlgError("failed to converge")
        return original(x)

    monkeypatch.setattr(decompositions, "eigh", fragile)
    previous = torch.ones_like(a)
    result = gx.matrix_root(a, 2, evd(dtype=None), previous=previous)
    assert result.failed.tolist() == [False, True]
    torch.testing.assert_close(result.root[0], power(q, values, 2)[0].float())
    assert torch.equal(result.root[1], previous[1])
    assert (torch.float64, 2) in seen


def test_empty_stacks_and_matrices_of_one_entry():
    for shape in ((0, 3, 3), (2, 0, 0)):
        result = gx.matrix_root(torch.zeros(shape), 2, residual=True)
        assert result.root.shape == shape
        assert result.failed.shape == shape[:1]
        assert isinstance(result.residual, torch.Tensor)
        assert result.residual.shape == shape[:1]
    for name in METHODS:
        root = gx.matrix_root(torch.full((1, 1, 1), 16.0), 4, name).root
        torch.testing.assert_close(root, torch.full((1, 1, 1), 0.5), rtol=2e-3, atol=0)


def test_methods_are_values():
    made = [*METHODS.values(), newton_db(5, power_iteration(3)), chebyshev(scaling=frobenius())]
    for method in made:
        assert hash(method) == hash(copy.deepcopy(method))
        assert pickle.loads(pickle.dumps(method)) == method
    assert "steps=5" in repr(made[-2])


OK = torch.eye(2)[None]
BAD = [
    (lambda: gx.matrix_root(torch.eye(2), 2), r"a must be a stack \(batch, n, n\)"),
    (lambda: gx.matrix_root(torch.zeros(1, 2, 3), 2), r"got a tensor of shape \(1, 2, 3\)"),
    (lambda: gx.matrix_root(OK.bfloat16(), 2), "must be float32 or float64, got torch.bfloat16"),
    (lambda: gx.matrix_root(OK, 0), "p must be a number > 0, got 0"),
    (lambda: gx.matrix_root(OK, 2, "newton"), "method must be one of .*got 'newton'"),
    (lambda: gx.matrix_root(OK, 3, "newton_db"), "newton_db: p must be 2 or 4, got 3"),
    (lambda: gx.matrix_root(OK, 2.5, "coupled_newton"), "p must be integer, got 2.5"),
    (lambda: gx.matrix_root(OK, 2.0**0.5, "higher_order_newton"), "p must be rational"),
    (lambda: gx.matrix_root(OK, 2, eps=-1e-3), "eps must be >= 0, got -0.001"),
    (lambda: gx.matrix_root(OK, 2, eps_mode="trace"), "eps_mode must be one of"),
    (lambda: gx.matrix_root(OK, 2, previous=torch.eye(2)), "previous must be like a"),
    (lambda: gx.matrix_root(OK, 2, start=torch.ones(2, 2, 1)), "start must have the shape"),
    (lambda: gx.matrix_root(OK, 2, tolerance=0.0), "tolerance must be > 0, got 0"),
    (lambda: gx.matrix_root(OK, 2.5, residual=True), "root_residual: p must be a whole number"),
    (lambda: gx.matrix_root(OK, 2, evd("pseudo_inverse"), eps=0.1), "takes no eps, got 0.1"),
    (
        lambda: gx.matrix_root(OK + torch.eye(2).roll(1, 0).triu(), 2, check_symmetry=True),
        "matrix 0 of 1 is not symmetric",
    ),
    (
        lambda: evd("old"),
        "evd: rule must be 'shift', 'shift_then_add', .* or 'pseudo_inverse', got 'old'",
    ),
    (lambda: evd(rank_rtol=-1.0), "rank_rtol must be in .0, inf."),
    (lambda: evd(dtype=torch.float16), "evd: dtype must be None or torch.float64"),
    (lambda: coupled_newton(0), "coupled_newton: steps must be an integer >= 1, got 0"),
    (lambda: coupled_newton(tol=-1.0), "tol must be in .0, inf."),
    (lambda: coupled_newton(stop="all"), "stop must be 'matrix', 'stack' or 'never'"),
    (lambda: coupled_newton(halves=True, matmul_dtype=torch.float16), "exclude each other"),
    (
        lambda: coupled_newton(matmul_dtype=torch.float64),
        "matmul_dtype must be None, torch.float16 or torch.bfloat16",
    ),
    (lambda: higher_order_newton(1), "order must be an integer >= 2, got 1"),
    (lambda: higher_order_newton(tol=-1.0), "tol must be in .0, inf."),
    (lambda: higher_order_newton(max_residual=0.0), "max_residual must be in .0, inf."),
    (lambda: newton_db(0), "newton_db: steps must be an integer >= 1, got 0"),
    (lambda: chebyshev(0), "chebyshev: degree must be an integer >= 1, got 0"),
    (lambda: chebyshev(resolution=0.0), "resolution must be in .0, inf."),
    (lambda: power_iteration(0), "power_iteration: steps must be an integer >= 1"),
    (lambda: power_iteration(safety=1.0), "safety must be in .1, inf."),
    (lambda: power_iteration(eps=-1.0), "eps must be in .0, inf."),
    (lambda: frobenius(torch.int32), "frobenius: dtype must be floating"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[m[:40] for _, m in BAD])
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
