"""Cosine transforms against their definition, and the deterministic choice of the largest."""

from __future__ import annotations

import math

import pytest
import torch

import gradtx as gx
from gradtx.ops.basis import BASES, basis_norms

SIZES = (1, 2, 3, 4, 5, 8, 17, 31, 64, 97, 128, 200, 301)
METHODS = ("fft", "matmul", "auto")


def definition(n: int) -> torch.Tensor:
    """C[k, j] = s_k cos(pi k (2j + 1) / (2n)), number by number."""
    rows = [
        [
            math.sqrt((1 if k == 0 else 2) / n) * math.cos(math.pi * k * (2 * j + 1) / (2 * n))
            for j in range(n)
        ]
        for k in range(n)
    ]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_transforms_are_products_with_the_basis(n, method):
    x = torch.randn(2, 5, n, dtype=torch.float64)
    basis = definition(n)
    torch.testing.assert_close(gx.ops.dct(x, method), x @ basis.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(gx.ops.idct(x, method), x @ basis, rtol=0, atol=1e-12)
    single = gx.ops.idct(gx.ops.dct(x.float(), method), method)
    torch.testing.assert_close(single, x.float(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("n", [64, 1024])
def test_the_basis_is_correctly_rounded(n):
    exact = gx.ops.dct_matrix(n, torch.float64)
    assert (exact @ exact.T - torch.eye(n)).abs().max() < 1e-12
    assert torch.equal(gx.ops.dct_matrix(n), exact.float())


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_computed_in_float32(method):
    x = torch.randn(3, 40).bfloat16()
    want = gx.ops.dct(x.float(), method).bfloat16()
    assert torch.equal(gx.ops.dct(x, method), want)


@pytest.mark.parametrize("scale", [1e18, 1e-18])
def test_rows_of_any_scale(scale):
    x = torch.randn(4, 200)
    got = gx.ops.dct(x * scale) / scale
    torch.testing.assert_close(got, gx.ops.dct(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [7, 200])
def test_gradients(n):
    x = torch.randn(2, n, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gx.ops.dct, x)
    assert torch.autograd.gradcheck(gx.ops.idct, x)
    assert torch.autograd.gradgradcheck(lambda y: gx.ops.dct(y) ** 2, x)

    def loss(y):
        return (gx.ops.dct(y) ** 3).sum()

    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(loss))(x), torch.func.grad(loss)(x), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("n", [5, 200])
def test_compiled_gradients(n, inverse):
    transform = gx.ops.idct if inverse else gx.ops.dct

    def loss(y):
        return (transform(y) ** 3).sum()

    torch.compiler.reset()
    x, twin = (torch.ones(2, n).mul(torch.arange(n)).requires_grad_() for _ in range(2))
    torch.compile(loss, fullgraph=True, backend="aot_eager")(x).backward()
    loss(twin).backward()
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-4, atol=1e-4 * twin.grad.max().item())


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_empty(shape):
    assert gx.ops.dct(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize(
    ("x", "method", "words"),
    [
        (torch.ones(3, dtype=torch.int64), "auto", "floating dtype"),
        (torch.ones(()), "auto", "0-d"),
        (torch.ones(3), "fastest", "'fastest'"),
    ],
)
def test_bad_input(x, method, words):
    with pytest.raises(ValueError, match=words):
        gx.ops.dct(x, method)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("side", ["std", "std_left", "left", "right"])
@pytest.mark.parametrize("shape", [(8, 4), (4, 8), (4, 4)])
def test_rotations_are_orthogonal_and_come_back(basis, side, shape):
    x = torch.randn(shape, dtype=torch.float64)
    there = gx.ops.rotate(x, basis, side)
    torch.testing.assert_close(there.norm(), x.norm())
    torch.testing.assert_close(gx.ops.rotate(there, basis, side, inverse=True), x)


def test_sides_and_bases():
    x, c = torch.randn(6, 4, dtype=torch.float64), definition(4)
    for basis, q in (("dct2", c.T), ("dct3", c), ("released_matmul", c)):
        torch.testing.assert_close(gx.ops.rotate(x, basis), x @ q)
    for basis, q in (("dct2", c.T), ("dct3", c), ("released_matmul", c.T)):
        torch.testing.assert_close(gx.ops.rotate(x.T, basis), q.T @ x.T)
    norms = basis_norms(x, "dct3", 1, 1)
    torch.testing.assert_close(norms, c.abs().sum(0))


def test_hadamard_needs_a_power_of_two():
    with pytest.raises(ValueError, match=r"power of two, got shape \(8, 6\)"):
        gx.ops.rotate(torch.ones(8, 6), "hadamard")


@pytest.mark.parametrize("n", [1, 2, 8, 16, 64, 1024])
def test_hadamard_is_the_sylvester_matrix(n):
    rows, columns = torch.arange(n)[:, None], torch.arange(n)
    parity = sum((rows & columns) >> i & 1 for i in range(10)) % 2
    h = (1 - 2 * torch.as_tensor(parity).double().expand(n, n)) / math.sqrt(n)
    x = torch.randn(5, n, dtype=torch.float64)
    torch.testing.assert_close(gx.ops.hadamard(x), x @ h, rtol=0, atol=1e-12)
    torch.testing.assert_close(gx.ops.hadamard(x.float()), (x @ h).float(), rtol=0, atol=2e-6)


def test_hadamard_has_derivatives():
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gx.ops.hadamard, x)
    assert torch.autograd.gradgradcheck(gx.ops.hadamard, x)
