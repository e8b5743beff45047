"""Derivatives of solutions against closed forms, in every mode, and linear solvers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx

D = torch.float64
A = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.5]], dtype=D)
B = torch.tensor([1.0, -2.0, 0.5], dtype=D)


def ridge(data: tuple[Tensor, Tensor], theta: dict[str, Tensor]) -> Tensor:
    x, y = data
    n = x.shape[1]
    # torch.linalg.solve has wrong second derivatives where the inner one is by forward mode.
    return torch.linalg.inv(x.T @ x + theta["l2"] * torch.eye(n, dtype=D)) @ (x.T @ y)


def optimality(params: Any, data: Any, theta: Any) -> Any:
    x, y = data
    return {"w": x.T @ (x @ params["w"] - y) + theta["l2"] * params["w"], "none": None}


@gx.meta.implicit_root(optimality, lambda f, b: gx.meta.cg(f, b, tol=1e-14))
def fit(init: Any, data: Any, theta: Any) -> Any:
    return {"w": ridge(data, theta), "none": None}


DATA = (
    torch.randn(6, 3, dtype=D, generator=torch.Generator().manual_seed(0)),
    torch.arange(6.0, dtype=D),
)
INIT = {"w": torch.zeros(3, dtype=D), "none": None}


def outer(solve: Any) -> Any:
    def loss(l2: Tensor) -> Tensor:
        return (solve(l2) ** 3).sum()

    return loss


IMPLICIT = outer(lambda l2: fit(INIT, DATA, {"l2": l2})["w"])
DIRECT = outer(lambda l2: ridge(DATA, {"l2": l2}))
TRANSFORMS = {
    "grad": torch.func.grad,
    "jvp": lambda f: lambda x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "grad_of_grad": lambda f: torch.func.grad(torch.func.grad(f)),
    "forward_over_reverse": torch.func.hessian,
    "forward_over_forward": lambda f: torch.func.jacfwd(torch.func.jacfwd(f)),
    "vmap_of_grad": lambda f: (
        lambda x: torch.func.vmap(torch.func.grad(f))(x * torch.ones(2, dtype=D))
    ),
    "vmap": lambda f: lambda x: torch.func.vmap(f)(x * torch.tensor([1.0, 2.0], dtype=D)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_derivatives_are_those_of_the_closed_form(name: str) -> None:
    at = torch.tensor(0.7, dtype=D)
    got, want = (TRANSFORMS[name](f)(at) for f in (IMPLICIT, DIRECT))
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


def test_autograd_and_data_arguments() -> None:
    x = DATA[0].clone().requires_grad_()
    theta = {"l2": torch.tensor(0.7, dtype=D, requires_grad=True)}
    got = torch.autograd.grad(fit(INIT, (x, DATA[1]), theta)["w"].sum(), (x, theta["l2"]))
    want = torch.autograd.grad(ridge((x, DATA[1]), theta).sum(), (x, theta["l2"]))
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


def test_fixed_point_of_an_optimizer() -> None:
    """Gradient descent converges; its derivative needs one linear solve, not the unroll."""

    def descend(w: Tensor, target: Tensor) -> Tensor:
        return w - 0.2 * (A @ w - target)

    @gx.meta.implicit_fixed_point(
        descend, lambda f, b: gx.meta.neumann(f, b, maxiter=300, alpha=-1.0)
    )
    def solve(w: Tensor, target: Tensor) -> Tensor:
        for _ in range(300):
            w = descend(w, target)
        return w

    got = torch.func.jacrev(lambda b: solve(torch.zeros(3, dtype=D), b))(B)
    torch.testing.assert_close(got, torch.linalg.inv(A), rtol=1e-6, atol=1e-8)


def test_captured_tensors_are_refused() -> None:
    def loss(a: Tensor) -> Tensor:
        root = gx.meta.implicit_root(lambda x: x * x - a)(lambda x: torch.sqrt(a) * x)
        return root(torch.ones(1)).sum()

    with pytest.raises(ValueError, match="implicit_root: the function uses a tensor from outside"):
        torch.func.grad(loss)(torch.tensor(2.0))


INDEFINITE = A - 2.2 * torch.eye(3, dtype=D)
SKEW = A + torch.tensor([[0.0, 1.0, 2.0], [-1.0, 0.0, 1.0], [-2.0, -1.0, 0.0]], dtype=D)
CASES = [
    ("cg", A),
    ("normal_cg", A),
    ("normal_cg", SKEW),
    ("minres", A),
    ("minres", INDEFINITE),
]


@pytest.mark.parametrize(("name", "matrix"), CASES)
@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_solvers_solve(name: str, matrix: Tensor, ridge: float) -> None:
    solve = getattr(gx.meta, name)

    def matvec(x: Any) -> Any:
        flat = matrix @ torch.cat([x["a"], x["b"]])
        return {"a": flat[:1], "b": flat[1:], "none": None}

    out = solve(matvec, {"a": B[:1], "b": B[1:], "none": None}, tol=1e-13, ridge=ridge)
    x = torch.cat([out["a"], out["b"]])
    eye = torch.eye(3, dtype=D)
    if name == "normal_cg":
        want = torch.linalg.solve(matrix.T @ matrix + ridge * eye, matrix.T @ B)
    else:
        want = torch.linalg.solve(matrix + ridge * eye, B)
    torch.testing.assert_close(x, want, rtol=1e-9, atol=1e-11)
    assert out["none"] is None
    again = solve(matvec, {"a": B[:1], "b": B[1:], "none": None}, x0=out, maxiter=0, ridge=ridge)
    torch.testing.assert_close(again, out)


@pytest.mark.parametrize("name", ["cg", "normal_cg", "minres"])
def test_solvers_under_vmap_and_compile(name: str) -> None:
    solve = getattr(gx.meta, name)
    bs = torch.stack([B, 100 * B, 0 * B])
    got = torch.func.vmap(lambda b: solve(lambda x: A @ x, b, tol=1e-12, maxiter=20))(bs)
    torch.testing.assert_close(got, torch.linalg.solve(A, bs.T).T, rtol=1e-9, atol=1e-11)
    torch._dynamo.reset()
    run = torch.compile(
        lambda b: solve(lambda x: A @ x, b, maxiter=6, tol=1e-12), fullgraph=True, backend="eager"
    )
    torch.testing.assert_close(run(B), got[0], rtol=1e-9, atol=1e-11)
    torch._dynamo.reset()


def test_solvers_stop_early_and_refuse_bad_values() -> None:
    calls = []

    def matvec(x: Tensor) -> Tensor:
        calls.append(1)
        return 2 * x

    gx.meta.cg(matvec, B)
    assert len(calls) == 2
    calls.clear()
    torch.func.vmap(lambda b: gx.meta.cg(matvec, b))(torch.stack([B, 2 * B]))
    assert len(calls) == 2
    with pytest.raises(ValueError, match="cg: ridge and tol must be >= 0"):
        gx.meta.cg(matvec, B, ridge=-1.0)
    with pytest.raises(ValueError, match="minres: b has no floating-point tensor"):
        gx.meta.minres(matvec, {"n": None})
    with pytest.raises(TypeError, match="cg: matvec must be a function"):
        gx.meta.cg(A, B)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cg", "normal_cg", "minres"])
@pytest.mark.parametrize("size", [1e-25, 1e-30, 1e20, 1e30])
def test_solvers_take_numbers_whose_squares_are_none(name: str, size: float) -> None:
    a, b = A.float(), B.float()
    got = getattr(gx.meta, name)(lambda x: a @ x, size * b) / size
    torch.testing.assert_close(got, torch.linalg.solve(a, b), rtol=1e-3, atol=1e-4)


def test_solvers_end_where_there_is_no_solution() -> None:
    for solve in (gx.meta.cg, gx.meta.normal_cg, gx.meta.minres):
        assert torch.equal(solve(lambda x: 0 * x, B), 0 * B)
    with pytest.raises(ValueError, match="cg: maxiter must be an integer >= 0"):
        gx.meta.cg(lambda x: x, B, maxiter=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="normal_cg: ridge and tol must be >= 0, got nan"):
        gx.meta.normal_cg(lambda x: x, B, ridge=float("nan"))
