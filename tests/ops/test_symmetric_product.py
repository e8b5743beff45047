"""Products that are known to be symmetric, against products in float64."""

from __future__ import annotations

import importlib

import pytest
import torch

from gradtx.ops import symmetric_product
from gradtx.ops.symmetric_product import has_mixed_products, product

# Rounding of the result, and of sums in float32 in an unknown order.
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-10, torch.float64: 1e-14}
SHAPES = [(1, 1, 1), (2, 5, 7), (1, 16, 32), (3, 33, 65), (2, 130, 31), (1, 257, 1100), (9, 64, 70)]


def test_mixed_factors_of_two_dtypes():
    x, y = torch.randn(2, 40, 70), torch.randn(2, 70, 40).bfloat16()
    want = (x.bfloat16().double() @ y.double()).triu()
    got = symmetric_product(x, y, mixed=True)
    torch.testing.assert_close(got.triu().double(), want, rtol=1e-4, atol=1e-4)


def by_rows(*shape):
    return torch.randn(shape)


def by_columns(batch, n, k):
    return torch.randn(batch, k, n).mT


def in_pieces(batch, n, k):
    return torch.randn(batch, 2 * n, 3 * k)[:, ::2, ::3]


def wide(x, mixed=False):
    return (x.bfloat16() if mixed else x).double()


@pytest.mark.parametrize("make", [by_rows, by_columns, in_pieces])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "mixed"),
    [*((dtype, False) for dtype in BOUNDS), (torch.float32, True), (torch.bfloat16, True)],
)
def test_products(make, shape, dtype, mixed):
    x = make(*shape).to(dtype)
    c = torch.randn(shape[0], shape[1], shape[1])
    c = (c + c.mT).to(torch.float32 if mixed else dtype)
    halves = (None, c, c.bfloat16()) if mixed else (None, c)
    for y in (x.mT, x.mT.clone(memory_format=torch.contiguous_format)):
        for added in halves:
            got = symmetric_product(x, y, added, 0.5, -2.0, mixed)
            assert got.dtype == (torch.float32 if mixed else dtype)
            assert got.is_contiguous()
            want = -2.0 * wide(x, mixed) @ wide(y, mixed)
            size = 2.0 * wide(x, mixed).abs() @ wide(y, mixed).abs()
            if added is not None:
                want, size = want + 0.5 * added.double(), size + 0.5 * added.double().abs()
            assert ((got.double() - want).abs() <= BOUNDS[got.dtype] * size).all()


needs_tiles = pytest.mark.skipif(
    not has_mixed_products(torch.zeros(1)), reason="needs the CPU kernel and AVX-512 for bfloat16"
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [3, 16, 100, 300])
def test_results_are_exactly_symmetric(dtype, n):
    x = torch.randn(2, n, n).to(dtype)
    a = symmetric_product(x, x.mT)
    b = symmetric_product(a, a, a, 0.3)
    both = symmetric_product(a, b, b, 1.5, 0.1)
    for result in (a, b, both, symmetric_product(a, b, mixed=True)):
        assert torch.equal(result, result.mT)


@needs_tiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_is_its_matrices(dtype):
    x = torch.randn(70, 40, 300).to(dtype)
    c = torch.eye(40).expand(70, 40, 40).to(dtype)
    whole = symmetric_product(x, x.mT, c)
    assert torch.equal(whole, torch.cat([symmetric_product(t, t.mT, c[:1]) for t in x.split(1)]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 3])
def test_processors_without_half_precision_multiply_in_float32(dtype, batch, monkeypatch):
    """One rounding; torch's own loops take up to ninety times as long there."""
    monkeypatch.setattr(importlib.import_module(product.__module__), "_NATIVE", frozenset())
    x, y, c = (torch.randn(batch, 40, 40).to(dtype) for _ in range(3))
    want = product(x.float(), y.float(), c.float(), 0.5, -2.0).to(dtype)
    assert torch.equal(product(x, y, c, 0.5, -2.0), want)
    assert torch.equal(product(x, y), product(x.float(), y.float()).to(dtype))


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 3), (2, 4, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_empty(shape, dtype):
    x = torch.ones(shape, dtype=dtype)
    batch, n, _ = shape
    c = torch.ones(batch, n, n, dtype=dtype)
    assert torch.equal(symmetric_product(x, x.mT, c[..., :], 2.0), 2 * c + x @ x.mT)
    assert torch.equal(symmetric_product(x, x.mT), x @ x.mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_numbers_that_are_not_finite(dtype):
    x = torch.randn(1, 40, 50).to(dtype)
    x[0, 3, 5], x[0, 20, 7] = torch.nan, torch.inf
    c = torch.full((1, 40, 40), torch.nan, dtype=dtype)
    got = symmetric_product(x, x.mT, c, beta=0.0)
    assert torch.equal(got.isnan(), (x @ x.mT).isnan())
    rest = [i for i in range(40) if i not in (3, 20)]
    assert got[0][rest][:, rest].isfinite().all()
    assert (got[0, 20, rest].abs() == torch.inf).all()
    assert symmetric_product(x[:, :2], x[:, :2].mT, c[:, :2, :2]).isnan().all()


def twice(x, c):
    return symmetric_product(x, x.mT, c + c.mT, 0.5, -2.0)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_derivatives():
    x, c = (torch.randn(2, 5, n, dtype=torch.float64, requires_grad=True) for n in (3, 5))
    torch.autograd.gradcheck(twice, (x, c), check_forward_ad=True)
    torch.autograd.gradgradcheck(twice, (x, c))


def test_derivatives_of_mixed_products():
    x, c = torch.randn(2, 5, 3, requires_grad=True), torch.randn(2, 5, 5, requires_grad=True)
    symmetric_product(x, x.mT, c + c.mT, 0.5, -2.0, True).square().sum().backward()
    got = (x.grad, c.grad)
    x.grad = c.grad = None
    twice(x, c).square().sum().backward()
    for a, b in zip(got, (x.grad, c.grad), strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.2)


def test_functorch_and_compile():
    x, c = torch.randn(4, 2, 5, 3), torch.randn(2, 5, 5)
    whole = torch.vmap(twice, in_dims=(0, None))(x, c)
    torch.testing.assert_close(whole, torch.stack([twice(t, c) for t in x]))
    loss = lambda x, c: twice(x, c).square().sum()  # noqa: E731
    grads = torch.vmap(torch.func.grad(loss), in_dims=(0, None))(x, c)
    torch.testing.assert_close(grads, torch.stack([torch.func.grad(loss)(t, c) for t in x]))
    torch.compiler.reset()
    compiled = torch.compile(twice, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x[0], c), twice(x[0], c))


def test_invalid_arguments():
    x = torch.ones(2, 4, 3)
    for args, text in (
        ((x, x), "shapes"),
        ((x[0], x[0].mT), "shapes"),
        ((x, x.mT, x), "c must have the shape"),
        ((x, x.mT.double()), "one floating dtype"),
        ((x.int(), x.int().mT), "one floating dtype"),
        ((x, x.mT, torch.ones(2, 4, 4).bfloat16()), "one floating dtype"),
        ((x.double(), x.double().mT, None, 1.0, 1.0, True), "float32 or bfloat16"),
    ):
        with pytest.raises(ValueError, match=text):
            symmetric_product(*args)


@pytest.mark.parametrize("shape", [(2, 260, 300), (1, 260, 300), (3, 5, 7)])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_products_of_any_matrices_in_half_precision(shape, alpha):
    """Watched and unwatched, alone and in batches."""
    x = torch.randn(shape).bfloat16().requires_grad_()
    y = torch.randn(shape).mT.bfloat16()
    c = torch.randn(shape[0], shape[1], shape[1]).bfloat16()
    for added in (None, c):
        want = alpha * (x.double() @ y.double()) + (0 if added is None else 2.0 * added.double())
        watched = product(x, y, added, 2.0, alpha)
        with torch.no_grad():
            plain = product(x, y, added, 2.0, alpha)
        torch.testing.assert_close(plain.double(), want, rtol=2e-2, atol=0.2)
        torch.testing.assert_close(plain, watched, rtol=2e-2, atol=0.2)
        (grad,) = torch.autograd.grad(watched.sum(), x)
        torch.testing.assert_close(
            grad, alpha * y.sum(-1)[:, None].expand_as(x), rtol=5e-2, atol=0.5
        )
    mapped = torch.vmap(lambda a, b: product(a[None], b[None])[0])(x.detach(), y)
    torch.testing.assert_close(mapped, product(x, y).detach(), rtol=2e-2, atol=0.2)


@pytest.mark.parametrize("shape", [(9, 9), (13, 6), (37, 37)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_do_not_depend_on_where_a_matrix_lies(shape, dtype):
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    for left, right in ((x @ x.mT, x), (x, x.mT), (x.mT, x)):
        c = left @ right
        for i in range(4):
            here = slice(i, i + 1)
            for part in (left[here], left[here].clone()):
                assert torch.equal(product(part, right[here])[0], product(left, right)[i])
                alone = product(part, right[here], c[here], 0.5, 2.0)
                assert torch.equal(alone[0], product(left, right, c, 0.5, 2.0)[i])
