"""Power iteration, nonnegative least squares and scaled gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.meta.leaves import jvp

D = torch.float64


def symmetric(n: int, seed: int) -> torch.Tensor:
    x = torch.randn(n, n, dtype=D, generator=torch.Generator().manual_seed(seed))
    return x + x.T


def test_power_iteration_finds_the_eigenvalue_of_largest_magnitude() -> None:
    matrices = torch.stack([symmetric(5, 0), symmetric(5, 1)])
    for matrix in matrices:
        value, v = gx.meta.power_iteration(matrix, iterations=3000, tolerance=1e-10)
        all_values = torch.linalg.eigvalsh(matrix)
        torch.testing.assert_close(value, all_values[all_values.abs().argmax()])
        torch.testing.assert_close(matrix @ v, value * v, atol=1e-6, rtol=0)

    def of_trees(matrix: torch.Tensor) -> Any:
        def product(v: Any) -> Any:
            out = matrix @ torch.cat([v["a"], v["b"]])
            return {"a": out[:2], "b": out[2:]}

        v0 = {"a": torch.ones(2, dtype=D), "b": torch.ones(3, dtype=D)}
        return gx.meta.power_iteration(product, v0, 3000, 1e-10)[0]

    values = torch.func.vmap(of_trees)(matrices)
    alone = torch.stack([gx.meta.power_iteration(m, None, 3000, 1e-10)[0] for m in matrices])
    torch.testing.assert_close(values, alone)


def test_power_iteration_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="a function needs v0"):
        gx.meta.power_iteration(lambda v: v)
    with pytest.raises(ValueError, match=r"must be square, got \(2, 3\)"):
        gx.meta.power_iteration(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="iterations must be >= 1"):
        gx.meta.power_iteration(torch.eye(2), iterations=0)


def test_nnls_meets_the_conditions_of_the_minimum() -> None:
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(30, 6, dtype=D, generator=generator)
    b = torch.randn(30, 2, dtype=D, generator=generator)
    x = gx.meta.nnls(a, b, 500)
    slope = a.T @ (a @ x - b)
    assert (x >= 0).all()
    assert (x == 0).any()
    assert (slope >= -1e-9).all()
    torch.testing.assert_close(slope * x, torch.zeros_like(x), atol=1e-9, rtol=0)
    torch.testing.assert_close(gx.meta.nnls(a, b[:, 1], 500), x[:, 1])
    assert not gx.meta.nnls(0 * a, b, 2).any()
    with pytest.raises(ValueError, match=r"a must be \(m, n\)"):
        gx.meta.nnls(a, b.T, 5)


def test_scaled_gradients_in_both_modes() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return gx.meta.scale_gradient({"x": x, "n": 3}, -0.5)["x"].pow(3).sum()

    x = torch.tensor([2.0, -1.0], dtype=D)
    torch.testing.assert_close(torch.func.grad(f)(x), -1.5 * x**2)
    torch.testing.assert_close(jvp(f, (x,), (x,))[1], (-1.5 * x**3).sum())
    mapped = torch.func.vmap(torch.func.grad(f))(torch.stack([x, 2 * x]))
    torch.testing.assert_close(mapped[1], -6 * x**2)
    assert f(torch.tensor([torch.inf])) == torch.inf
