"""Deterministic problems of few parameters, and how many iterations torch's L-BFGS needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

D = torch.float64
Problem = tuple[Callable[[Any], Tensor], Any, float]


def _rosenbrock(w: Any) -> Tensor:
    x = w["x"]
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def rosenbrock() -> Problem:
    """Loss, start, and the loss that counts as solved."""
    return _rosenbrock, {"x": torch.tensor([-1.2, 1.0], dtype=D)}, 1e-20


def chain_of_six() -> Problem:
    """Rosenbrock's function of six numbers."""
    return _rosenbrock, {"x": torch.tensor([-1.2, 1.0] * 3, dtype=D)}, 1e-20


def least_squares_parts() -> tuple[Tensor, Tensor]:
    """A matrix whose columns have norms over one and a half decades, and a right-hand side."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(30, 8, dtype=D, generator=generator) * torch.logspace(0, 1.5, 8, dtype=D)
    return a, torch.randn(30, dtype=D, generator=generator)


def least_squares() -> Problem:
    """The loss above its minimum."""
    a, b = least_squares_parts()
    best = torch.linalg.lstsq(a, b[:, None]).solution[:, 0]
    least = (a @ best - b).square().sum() / 2
    return (
        lambda w: (a @ w["x"] - b).square().sum() / 2 - least,
        {"x": torch.zeros(8, dtype=D)},
        1e-13,
    )


def pinn_residuals(w: Any) -> Tensor:
    """``u' + 2 u`` of ``u(t) = 1 + t net(t)`` at 16 times."""

    def u(t: Tensor) -> Tensor:
        return 1 + t * (torch.tanh(t * w["a"] + w["c"]) * w["v"]).sum()

    slope, value = torch.func.vmap(torch.func.grad_and_value(u))(torch.linspace(0, 1, 16, dtype=D))
    return slope + 2 * value


def pinn() -> Problem:
    """A network of six hidden units that is to solve ``u' = -2 u``."""
    generator = torch.Generator().manual_seed(1)
    w = {k: torch.randn(6, dtype=D, generator=generator) for k in ("a", "c", "v")}
    return lambda w: pinn_residuals(w).square().mean(), w, 1e-9


PROBLEMS = {
    "rosenbrock": rosenbrock,
    "chain_of_six": chain_of_six,
    "least_squares": least_squares,
    "pinn": pinn,
}


def torch_iterations(f: Callable[[Any], Tensor], w: Any, below: float, most: int) -> int:
    """Iterations of ``torch.optim.LBFGS`` with its line search until the loss is below."""
    w = {k: x.clone().requires_grad_() for k, x in w.items()}
    first = next(iter(w.values()))
    optimizer = torch.optim.LBFGS(
        list(w.values()),
        max_iter=most,
        max_eval=10**6,
        history_size=10,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    reached = [most]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = f(w)
        loss.backward()
        if loss < below:
            reached.append(optimizer.state[first].get("n_iter", 0))
        return loss

    optimizer.step(closure)
    return min(reached)
