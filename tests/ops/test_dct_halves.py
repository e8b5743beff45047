"""The DCT by halves against its definition, in every layout and with any number of threads."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.ops import OPS
from gradtx.ops.dct_halves import base_of, dct_halves, halves_table
from gradtx.ops.registry import has_kernel

from .test_dct_passes import LAYOUTS, laid

SIZES = (1, 2, 3, 4, 5, 6, 8, 12, 16, 17, 22, 31, 64, 97, 160, 200, 301, 1024)


def definition(n: int) -> Tensor:
    k = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / (2 * n) * torch.outer(k, 2 * k + 1)) * math.sqrt(2 / n)
    basis[0] = math.sqrt(1 / n)
    return basis


def table_of(n: int, dtype: torch.dtype) -> Tensor:
    return halves_table(n, dtype, torch.device("cpu"))


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", SIZES)
def test_kernel_and_reference_are_products_with_the_basis(n, dtype, dim, layout, inverse):
    basis = definition(n)
    limit = 4e-7 * math.sqrt(n) if dtype == torch.float32 else 1e-14 * n
    for rows in (1, 5, 16, 37):
        x = torch.randn((rows, n) if dim == 1 else (n, rows), dtype=dtype)
        wide = x.double() if dim == 1 else x.double().mT
        want = wide @ (basis if inverse else basis.mT)
        for run in (dct_halves, OPS["dct_halves"].reference):
            got = run(laid(x, layout), table_of(n, dtype), inverse, dim)
            assert got.is_contiguous()
            assert got.dtype == dtype
            torch.testing.assert_close(
                got.double(), want if dim == 1 else want.mT, rtol=0, atol=limit
            )


@pytest.mark.parametrize("n", [256, 3840])
def test_rounding_errors_do_not_grow(n):
    x = torch.randn(40, n)
    back = dct_halves(dct_halves(x, table_of(n, x.dtype), False, 1), table_of(n, x.dtype), True, 1)
    assert (back - x).norm() <= 5e-7 * x.norm()


def test_threads_change_no_bits():
    x, before = torch.randn(700, 160), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(dct_halves(x, table_of(160, x.dtype), False, 1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_where_halving_ends():
    assert [base_of(n) for n in (1, 2, 4, 6, 8, 160, 640, 4096, 97)] == [1, 2, 4, 3, 4, 5, 5, 4, 97]


@pytest.mark.skipif(not has_kernel("dct_halves", "CPU"), reason="no CPU kernels")
@pytest.mark.parametrize(
    ("x", "n", "dim", "words"),
    [
        (torch.ones(2, 8, dtype=torch.bfloat16), 8, 1, "float32"),
        (torch.ones(2, 2, 8), 8, 1, "matrix"),
        (torch.ones(2, 0), 8, 1, "not empty"),
        (torch.ones(2, 8), 8, 2, "dim"),
        (torch.ones(2, 8), 6, 1, "table"),
        (torch.ones(2, 1031), 1031, 1, "odd factor"),
    ],
)
def test_bad_arguments(x, n, dim, words):
    for run in (dct_halves, OPS["dct_halves"].reference):
        with pytest.raises((RuntimeError, ValueError), match=words):
            run(x, table_of(n, torch.float32), False, dim)


@pytest.mark.parametrize("dim", [0, 1, -1, -2, -3])
def test_any_dimension(dim):
    x = torch.randn(6, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(
        gx.ops.dct(x, dim=dim), gx.ops.dct(x.movedim(dim, -1)).movedim(-1, dim)
    )
    torch.testing.assert_close(gx.ops.idct(gx.ops.dct(x, dim=dim), dim=dim), x)
    mapped = torch.func.vmap(lambda y: gx.ops.dct(y, dim=dim % 2), in_dims=2)(x)
    each = [gx.ops.dct(x[..., i], dim=dim % 2) for i in range(8)]
    torch.testing.assert_close(mapped, torch.stack(each))
