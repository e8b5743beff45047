"""Roots: values, derivatives of every kind, zero among the numbers, and what they keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jvp, vmap

from gradtx.core.roots import divide_by_root, root

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


def ratio(x: Tensor) -> Tensor:
    """An adaptive step of a moment and of its square: odd, with slope 1 / eps at zero."""
    return divide_by_root(x, x * x, 0.5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("mode", [*MODES, *SECOND])
@pytest.mark.parametrize("mapped", [False, True])
def test_quotients_have_the_derivatives_of_their_formula(mode: str, mapped: bool) -> None:
    x = torch.tensor([0.0, -3.0, 0.25, 4.0], dtype=torch.float64)
    size = x.abs() + 0.5
    want = 0.5 / size**2 if mode in MODES else -torch.sign(x) / size**3
    want[0] = 2.0 if mode in MODES else 0.0  # where the root counts as a constant
    f = derivative(mode, ratio)
    got = vmap(f)(torch.stack([x, x]))[1] if mapped else f(x)
    torch.testing.assert_close(got, want)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_quotients_by_autograd_and_what_they_keep() -> None:
    above, square = (torch.rand(3, dtype=torch.float64).requires_grad_() for _ in range(2))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = divide_by_root(above, square, 0.5)
    assert [t.data_ptr() == out.data_ptr() for t in kept] == [True, False]
    f = lambda a, s: divide_by_root(a, s, 0.5)  # noqa: E731
    assert torch.autograd.gradcheck(f, (above, square), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, (above, square))
    fixed = torch.ones(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: f(fixed, s), (square,))
    assert torch.autograd.gradcheck(lambda a: f(a, fixed), (above,))


@pytest.mark.parametrize("dims", [(0, None), (None, 0), (0, 1), (1, 0)])
def test_mapped_sides_of_quotients(dims: tuple[int | None, int | None]) -> None:
    pair = [torch.rand((3, 3) if d is not None else (3,), dtype=torch.float64) for d in dims]
    got = vmap(lambda a, s: divide_by_root(a, s, 0.5), dims)(*pair)
    above, square = (x if d is None else x.movedim(d, 0) for x, d in zip(pair, dims, strict=True))
    torch.testing.assert_close(got, above / (square.sqrt() + 0.5))


@pytest.mark.parametrize("eps", [0.0, 0.5, torch.tensor(0.5)])
def test_quotients_of_zeros_and_of_what_is_no_number(eps: float | Tensor) -> None:
    above, square = torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.0, -1.0, float("nan")])
    value, slopes = torch.func.vjp(lambda a, s: divide_by_root(a, s, eps), above, square)
    assert value.isnan().tolist() == [False, True, True]
    assert [bool(x[0].isfinite()) for x in slopes(torch.ones(3))] == [True, True]
