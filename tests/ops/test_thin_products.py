"""Products of a large matrix with a thin one, against float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import gradtx as gx
from gradtx.ops import OPS
from gradtx.ops.registry import has_kernel

COORDINATES = torch.ops.gradtx.coordinates.default
SQUARES = torch.ops.gradtx.coordinates_squares.default
KERNEL = has_kernel("coordinates_squares", "CPU")
ADD_PRODUCT = torch.ops.gradtx.add_product_.default

# (rows, columns, rank): tails of tiles, of registers and of panels; several passes of the sums.
SHAPES = [
    *((1, 1, 1), (1, 40, 3), (40, 1, 3), (7, 5, 1), (6, 64, 64), (13, 130, 17), (130, 13, 65)),
    *((65, 67, 300), (2100, 70, 33), (70, 2100, 130), (300, 1040, 64), (1040, 300, 64)),
    *((0, 5, 2), (5, 0, 2), (5, 4, 0)),
]
LAYOUTS = ["rows", "columns", "wide", "neither"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def laid(x: Tensor, layout: str) -> Tensor:
    """The same matrix, lying otherwise."""
    rows, columns = x.shape
    if layout == "columns":
        return x.mT.contiguous().mT
    if layout == "wide":
        return x.new_full((rows, columns + 3), torch.nan)[:, 1 : columns + 1].copy_(x)
    if layout == "neither":
        return x.new_full((2 * rows, 2 * columns), torch.nan)[::2, ::2].copy_(x)
    return x


def assert_product(actual: Tensor, a: Tensor, b: Tensor, add: Tensor | float = 0.0) -> None:
    """Assert ``add + a b`` up to what float32 sums may lose."""
    a, b = a.double(), b.double()
    add = torch.as_tensor(add, dtype=torch.float64)
    bound = (a.abs() @ b.abs() + add.abs()) * (a.shape[1] + 2) ** 0.5 * 2**-23
    error = (actual.double() - (a @ b + add)).abs()
    assert (error <= bound).all()


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(("rows", "columns", "rank"), SHAPES)
def test_coordinates(rows, columns, rank, left, threads):
    x, basis = torch.randn(rows, columns), torch.randn(rows if left else columns, rank)
    for one, other in itertools.product(LAYOUTS, LAYOUTS):
        out = COORDINATES(laid(x, one), laid(basis, other), left)
        assert out.is_contiguous()
        assert_product(out, *((basis.mT, x) if left else (x, basis)))


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(("rows", "columns", "rank"), SHAPES)
def test_squares(rows, columns, rank, left, threads):
    x, basis = torch.randn(rows, columns), torch.randn(rows if left else columns, rank)
    x[1::3], x[:, 2::5] = 0.0, 0.0
    for one, other in itertools.product(LAYOUTS, LAYOUTS):
        out, squares = SQUARES(laid(x, one), laid(basis, other), left)
        assert out.is_contiguous()
        assert_product(out, *((basis.mT, x) if left else (x, basis)))
        wanted = x.double().square().sum(0 if left else 1)
        torch.testing.assert_close(squares, wanted, rtol=2e-6, atol=0.0)


@pytest.mark.parametrize("left", [False, True])
def test_squares_beyond_float32(left):
    x, basis = torch.randn(90, 70), torch.randn(90 if left else 70, 64)
    each = torch.logspace(-30, 30, x.shape[1 if left else 0]).float()
    x = x * each if left else x * each[:, None]
    wanted = x.double().square().sum(0 if left else 1)
    torch.testing.assert_close(SQUARES(x, basis, left)[1], wanted, rtol=2e-6, atol=0.0)
    x[3, 4] = torch.inf
    assert SQUARES(x, basis, left)[1].isinf().sum() == 1
    x[3, 4] = torch.nan
    assert SQUARES(x, basis, left)[1].isnan().sum() == 1


def test_squares_are_of_float32():
    with pytest.raises(ValueError, match="float32"):
        OPS["coordinates_squares"].reference(
            torch.ones(2, 2).double(), torch.ones(2, 1).double(), 1
        )
    with pytest.raises(RuntimeError if KERNEL else ValueError, match="float32"):
        SQUARES(torch.ones(2, 2).double(), torch.ones(2, 1).double(), True)


@pytest.mark.parametrize(("rows", "columns", "k"), SHAPES)
def test_add_product(rows, columns, k, threads):
    x, a, b = torch.randn(rows, columns), torch.randn(rows, k), torch.randn(k, columns)
    factors = [(1.0, 1.0), (0.0, 1.0), (0.5, -2.0), (1.0, 0.0), (0.0, 0.0)]
    for (beta, alpha), one in itertools.product(factors, LAYOUTS):
        for other in ("rows", "columns", "neither"):
            out = laid(x, one).clone(memory_format=torch.preserve_format)
            if one in ("wide", "neither"):
                out = laid(x, one)
            ADD_PRODUCT(out, laid(a, other), laid(b, one), beta, alpha)
            assert_product(out, alpha * a, b, beta * x.double())


@pytest.mark.parametrize(("rows", "columns", "k"), SHAPES)
def test_an_addend_and_a_scale(rows, columns, k, threads):
    x, a, b = torch.randn(rows, columns), torch.randn(rows, k), torch.randn(k, columns)
    addend, scale = torch.randn(rows, columns), torch.tensor(-0.7)
    for beta, one, other in itertools.product((0.0, 0.5), LAYOUTS, LAYOUTS):
        out = laid(x, one).clone(memory_format=torch.preserve_format)
        ADD_PRODUCT(out, a, b, beta, 2.0, laid(addend, other), scale)
        assert_product(out, 2.0 * scale * a, b, beta * x.double() + addend)


def test_only_the_matrix_is_written():
    memory = torch.full((9, 200), 7.0)
    x = memory[1:8, 3:136]
    gx.ops.add_product_(x, torch.ones(7, 900), torch.ones(900, 133), 0.0)
    assert (x == 900).all()
    x.fill_(7.0)
    assert (memory == 7).all()


def test_beta_zero_does_not_read():
    x = torch.full((70, 130), torch.nan)
    a, b = torch.randn(70, 64), torch.randn(64, 130)
    assert gx.ops.add_product_(x, a, b, 0.0) is x
    assert_product(x, a, b)
    ADD_PRODUCT(x.fill_(torch.inf), a[:, :0], b[:0], 0.0, 1.0)
    assert (x == 0).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_row_and_column(bad):
    x, basis = torch.ones(50, 1100), torch.ones(50, 65)
    x[3, 7] = bad
    out = COORDINATES(x, basis, True)
    assert torch.equal(~out.isfinite(), (torch.arange(1100) == 7).expand(65, 1100))
    out = COORDINATES(x, torch.ones(1100, 65), False)
    assert torch.equal(~out.isfinite(), (torch.arange(50) == 3)[:, None].expand(50, 65))
    y = torch.ones(50, 1100)
    ADD_PRODUCT(y, x[:, :64].contiguous(), torch.ones(64, 1100), 1.0, 1.0)
    assert torch.equal(y.isfinite(), (torch.arange(50) != 3)[:, None].expand(50, 1100))


def test_a_call_gives_the_same_bits_again(threads):
    x, basis = torch.randn(300, 1040), torch.randn(300, 64)
    assert torch.equal(COORDINATES(x, basis, True), COORDINATES(x, basis, True))
    one, two = x.clone(), x.clone()
    for y in (one, two):
        ADD_PRODUCT(y, basis, torch.ones(64, 1040), 0.5, 1.0)
    assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    x, basis = torch.randn(40, 300).to(dtype), torch.randn(40, 64).to(dtype)
    torch.testing.assert_close(COORDINATES(x, basis, True), basis.mT @ x)
    y, z = x.clone(), x.clone()
    b = torch.randn(64, 300).to(dtype)
    ADD_PRODUCT(y, basis, b, 0.5, 2.0)
    torch.testing.assert_close(y, z.addmm_(basis, b, beta=0.5, alpha=2.0))


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("rank", [2, 64])
def test_coordinates_have_derivatives(rank):
    x, basis = torch.randn(3, 90, 200), torch.randn(90, rank)

    def loss(x, basis):
        return gx.ops.coordinates(x, basis, True).square().sum()

    def plain(x, basis):
        return (basis.mT @ x).square().sum()

    for arguments in ((0,), (1,), (0, 1)):
        actual = torch.func.vmap(torch.func.grad(loss, arguments), (0, None))(x, basis)
        expected = torch.func.vmap(torch.func.grad(plain, arguments), (0, None))(x, basis)
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-3)
    one = x[0].clone().requires_grad_()
    loss(one, basis).backward()
    torch.testing.assert_close(one.grad, torch.func.grad(plain)(x[0], basis), rtol=1e-4, atol=1e-3)
    tangent = torch.func.jvp(lambda q: loss(x[0], q), (basis,), (basis,))[1]
    torch.testing.assert_close(tangent, 2 * loss(x[0], basis), rtol=1e-4, atol=1e-3)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(basis, basis)
        tangent = torch.autograd.forward_ad.unpack_dual(loss(x[0], dual)).tangent
    torch.testing.assert_close(tangent, 2 * loss(x[0], basis), rtol=1e-4, atol=1e-3)


def test_compiled():
    def both(x, a, b):
        z = gx.ops.coordinates(x, a, True)
        return gx.ops.add_product_(x.clone(), a, z, 0.5), z

    args = torch.randn(90, 200), torch.randn(90, 64), None
    torch.compiler.reset()
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    for a, e in zip(compiled(*args), both(*args), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-3)


def test_opcheck_of_the_operator_in_place():
    opcheck(ADD_PRODUCT, (torch.ones(6, 7), torch.ones(6, 2), torch.ones(2, 7), 0.5, 2.0))
    more = torch.ones(6, 7), torch.tensor(3.0)
    opcheck(ADD_PRODUCT, (torch.ones(6, 7), torch.ones(6, 2), torch.ones(2, 7), 0.5, 2.0, *more))
    assert OPS["add_product_"].mutates


def test_bad_input():
    x = torch.ones(4, 5)
    for basis in (torch.ones(5, 2), torch.ones(4), torch.ones(1, 4, 2)):
        with pytest.raises(ValueError, match="needs a basis of its rows"):
            gx.ops.coordinates(x, basis, True)
    with pytest.raises(ValueError, match=r"x has torch.float32, the basis torch.float64"):
        gx.ops.coordinates(x, torch.ones(5, 2).double(), False)
    for a, b in (((4, 2), (3, 5)), ((5, 2), (2, 5)), ((4, 2), (2, 4)), ((4,), (4, 5))):
        with pytest.raises(ValueError, match="have no product of the shape of x"):
            gx.ops.add_product_(x, torch.ones(a), torch.ones(b))
    for addend in (torch.ones(5, 4), torch.ones(4, 5).double()):
        with pytest.raises(ValueError, match=r"x has shape \(4, 5\) and torch.float32, the addend"):
            gx.ops.add_product_(x, torch.ones(4, 2), torch.ones(2, 5), addend=addend)
    with pytest.raises(ValueError, match=r"x has torch.float32, a has torch.float64"):
        gx.ops.add_product_(x, torch.ones(4, 2).double(), torch.ones(2, 5))
    assert (x == 1).all()
