"""Roots: values, derivatives of every kind, zero among the numbers, and what they keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jvp, vmap

from gradtx.core.roots import root

X = torch.tensor([0.0, 1e-300, 0.25, 4.0], dtype=torch.float64)


def of_square(x: Tensor) -> Tensor:
    """The size, of which the derivatives at zero are those of a constant."""
    return root(x * x)


def derivative(mode: str, f: Any) -> Any:
    """The derivative of every element by itself: "forward", "reverse" or one over another."""
    outer, _, inner = mode.partition(" over ")
    g = derivative(inner, f) if inner else f
    if outer == "forward":
        return lambda x: jvp(g, (x,), (torch.ones_like(x),))[1]
    return lambda x: grad(lambda y: g(y).sum())(x)


MODES = ("reverse", "forward")
SECOND = tuple(f"{a} over {b}" for a in MODES for b in MODES)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("mode", [*MODES, *SECOND])
@pytest.mark.parametrize("mapped", [False, True])
def test_derivatives_are_zero_at_zero_and_right_elsewhere(mode: str, mapped: bool) -> None:
    first = mode in MODES
    x = X if first else X[[0, 2, 3]]  # the second derivative at 1e-300 is no float64
    want = torch.where(x == 0, 0.0, (0.5 if first else -0.25) * x ** (-0.5 if first else -1.5))
    f = derivative(mode, root)
    got = vmap(f)(torch.stack([x, x]))[1] if mapped else f(x)
    torch.testing.assert_close(got, want)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_sizes_have_finite_curvature() -> None:
    x = torch.tensor([0.0, -2.0, 3.0], dtype=torch.float64)
    assert torch.equal(grad(lambda x: of_square(x).sum())(x), torch.sign(x))
    torch.testing.assert_close(hessian(lambda x: of_square(x).sum())(x), torch.zeros(3, 3).double())


def test_autograd_and_what_it_keeps() -> None:
    x, kept = X[1:].clone().requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = root(x)
    assert [t.data_ptr() for t in kept] == [y.data_ptr()]
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.testing.assert_close(slope, 0.5 * x**-0.5)
    (curved,) = torch.autograd.grad(slope[1:].sum(), x)
    torch.testing.assert_close(curved[1:], (-0.25 * x**-1.5)[1:])


def test_what_is_no_number_stays_so() -> None:
    x = torch.tensor([float("nan"), -1.0, float("inf")])
    values, slopes = torch.func.vjp(root, x)
    assert torch.equal(values.isnan(), torch.tensor([True, True, False]))
    assert torch.equal(slopes(torch.ones(3))[0].isnan(), torch.tensor([True, True, False]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 4.0], dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(root(x, 0.0).sum(), x)
    assert slope.dtype == dtype
    assert slope.tolist() == [0.0, 0.25]


def test_what_is_added_counts() -> None:
    assert root(torch.tensor(0.0), 4.0) == root(torch.tensor(1.0), torch.tensor(3.0)) == 2.0
    torch._dynamo.reset()
    compiled = torch.compile(grad(lambda x: root(x).sum()), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), torch.where(X == 0, 0.0, 0.5 * X**-0.5))
    torch._dynamo.reset()
