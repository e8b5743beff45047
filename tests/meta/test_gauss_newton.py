"""Gauss-Newton steps against matrices, and against the iterations that L-BFGS needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from tests.transforms.small_problems import (
    least_squares_parts,
    pinn,
    pinn_residuals,
    torch_iterations,
)

D = torch.float64


def rosenbrock(w: Any) -> Tensor:
    x = w["x"]
    return torch.cat([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])


def run(tx: Any, residuals: Callable[[Any], Tensor], w: Any, below: float, most: int) -> int:
    def loss(w: Any) -> Tensor:
        return gx.meta.half_squares(residuals(w))

    state = tx.init(w)
    for n in range(most):
        grads, value = torch.func.grad_and_value(loss)(w)
        if value < below:
            return n
        updates, state = tx.update(grads, state, w, model_fn=residuals)
        w = gx.apply_updates(w, updates)
    return most


def test_rosenbrock_in_fewer_iterations_than_lbfgs() -> None:
    w = {"x": torch.tensor([-1.2, 1.0], dtype=D)}
    theirs = torch_iterations(lambda w: gx.meta.half_squares(rosenbrock(w)), w, 1e-20, 100)
    assert run(gx.meta.levenberg_marquardt(), rosenbrock, w, 1e-20, 100) <= theirs < 100
    assert run(gx.meta.gauss_newton(), rosenbrock, w, 1e-20, 100) <= 3


def test_least_squares_in_one_step() -> None:
    a, b = least_squares_parts()
    w = torch.zeros(8, dtype=D)
    tx = gx.meta.gauss_newton(tol=1e-14)
    updates, _ = tx.update(a.T @ (a @ w - b), tx.init(w), w, model_fn=lambda w: a @ w - b)
    torch.testing.assert_close(w + updates, torch.linalg.lstsq(a, b[:, None]).solution[:, 0])


def test_a_pinn_in_fewer_iterations_than_lbfgs() -> None:
    f, w, _ = pinn()
    theirs = torch_iterations(f, w, 1e-7, 100)
    tx = gx.meta.levenberg_marquardt()
    # Half the sum of 16 squares is 8 times their mean.
    assert run(tx, pinn_residuals, w, 8e-7, 50) < min(theirs, 50)


@pytest.mark.slow
def test_a_pinn_to_the_accuracy_of_float64_arithmetic() -> None:
    """Optax's L-BFGS needs 343 iterations to a mean of 1e-9, torch's is not there after 3000."""
    _, w, below = pinn()
    assert run(gx.meta.levenberg_marquardt(), pinn_residuals, w, 8 * below, 130) < 100


def test_natural_gradient_of_a_softmax_is_over_the_fisher_matrix() -> None:
    x = torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.1, 0.7]], dtype=D)
    labels = torch.tensor([0, 2, 1])

    def nll(outputs: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs, labels, reduction="sum")

    w = torch.tensor([[0.3, -0.7, 0.1], [1.1, 0.2, -0.4]], dtype=D)
    tx = gx.meta.natural_gradient(nll, lr=0.5, damping=0.1, tol=1e-14)
    g = torch.func.grad(lambda w: nll(x @ w))(w)
    updates, _ = tx.update(g, tx.init(w), w, model_fn=lambda w: x @ w)
    p = torch.softmax(x @ w, 1)
    fisher = torch.zeros(6, 6, dtype=D)
    for row, prob in zip(x, p, strict=True):
        middle = torch.diag(prob) - torch.outer(prob, prob)
        fisher += torch.kron(torch.outer(row, row), middle)
    want = -0.5 * torch.linalg.solve(fisher + 0.1 * torch.eye(6, dtype=D), g.reshape(-1))
    torch.testing.assert_close(updates.reshape(-1), want)


def test_a_step_that_makes_it_worse_is_not_made() -> None:
    w = torch.tensor([1.0], dtype=D)
    tx = gx.meta.levenberg_marquardt(damping=1e-6, increase=5.0)

    def residuals(w: Tensor) -> Tensor:
        return torch.atan(10 * w)

    g = torch.func.grad(lambda w: gx.meta.half_squares(residuals(w)))(w)
    updates, state = tx.update(g, tx.init(w), w, model_fn=residuals)
    assert not updates.any()
    torch.testing.assert_close(state.damping, torch.tensor(5e-6, dtype=D))


def test_says_what_is_missing() -> None:
    w = torch.ones(2)
    for tx in (gx.meta.gauss_newton(), gx.meta.levenberg_marquardt()):
        with pytest.raises(ValueError, match="needs model_fn"):
            tx.update(w, tx.init(w), w)
    with pytest.raises(ValueError, match=r"damping must be in \(0, inf\)"):
        gx.meta.levenberg_marquardt(damping=0.0)
    with pytest.raises(ValueError, match=r"lr must be in \[0, inf\)"):
        gx.meta.gauss_newton(-1.0)


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_damping_stays_a_number_whatever_the_steps_are(dtype: torch.dtype) -> None:
    """Two hundred good steps, then as many where nothing can be gained; after both it goes on."""
    tx, w = gx.meta.levenberg_marquardt(), torch.zeros(2, dtype=dtype)
    state = tx.init(w)

    def step(residuals: Callable[[Tensor], Tensor]) -> None:
        nonlocal w, state
        slope = torch.func.grad(lambda w: gx.meta.half_squares(residuals(w)))(w)
        updates, state = tx.update(slope, state, w, model_fn=residuals)
        w = gx.apply_updates(w, updates)

    for k in range(200):
        step(lambda w, k=k: w - k)  # type: ignore[misc]
    assert 0 < state.damping < 1
    for _ in range(200):
        step(lambda w: w - 200)
    w = torch.tensor([-1.2, 1.0], dtype=dtype)
    for _ in range(60):
        step(lambda w: rosenbrock({"x": w}))
    torch.testing.assert_close(w, torch.ones(2, dtype=dtype), rtol=1e-3, atol=1e-3)
