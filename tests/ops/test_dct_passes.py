"""The passes around the FFT of a DCT: kernels against the reference, everything against float64."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import gradtx as gx
from gradtx.__main__ import has_kernel
from gradtx.ops import OPS

from .rows import dct_before_samples

BEFORE = torch.ops.gradtx.dct_before.default
AFTER = torch.ops.gradtx.dct_after_.default
SIZES = (1, 2, 3, 4, 5, 16, 31, 64, 97, 200, 301, 1024)
LAYOUTS = ("rows", "columns", "neither")


def laid(x: Tensor, layout: str) -> Tensor:
    """The same matrix, lying otherwise."""
    if layout == "columns":
        return x.mT.contiguous().mT
    if layout == "neither":
        return x.new_full((2 * x.shape[0], 2 * x.shape[1]), torch.nan)[::2, ::2].copy_(x)
    return x


def fft_order(n: int) -> list[int]:
    """Even samples, odd samples from the last, and this row from its end."""
    order = [*range(0, n, 2), *reversed(range(1, n, 2))]
    return [order[-j % n] for j in range(n)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", SIZES)
def test_passes(n, dtype, layout, threads):
    half = n // 2 + 1
    tolerance = {"rtol": 0, "atol": 1e-6 if dtype == torch.float32 else 1e-14}
    for rows in (1, 5, 37, 16, 200):
        x = torch.randn(rows, n, dtype=dtype)
        c, d = twiddle = torch.randn(2, half, dtype=dtype)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            samples = BEFORE(laid(x, layout), twiddle, False)
            spectrum = BEFORE(laid(x, layout), twiddle, True)
            forth, back = (torch.full_like(x, torch.nan) for _ in range(2))
            z = torch.randn(rows, half, dtype=dtype.to_complex())
            AFTER(forth, laid(z, layout), twiddle, False)
            AFTER(back, laid(samples, layout), twiddle, True)
        finally:
            torch.set_num_threads(before)
        assert torch.equal(samples, x[:, fft_order(n)])
        assert torch.equal(back, x)
        wide = torch.complex(c.double(), d.double())
        pairs = torch.complex(x[:, :half].double(), x[:, [-k % n for k in range(half)]].double())
        limit = {**tolerance, "atol": tolerance["atol"] * 20}
        torch.testing.assert_close(spectrum.to(torch.complex128), pairs * wide, **limit)
        turned = z.to(torch.complex128) * wide
        want = [turned.real[:, j] if j < half else turned.imag[:, n - j] for j in range(n)]
        torch.testing.assert_close(forth.double(), torch.stack(want, 1), **limit)
        assert torch.equal(samples, OPS["dct_before"].reference(x, twiddle, False))
        assert torch.equal(spectrum, OPS["dct_before"].reference(x, twiddle, True))
        reference = torch.empty_like(x)
        OPS["dct_after_"].reference(reference, z, twiddle, False)
        assert torch.equal(forth, reference)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 300), (70, 129), (600, 301), (3, 5, 200)])
def test_transforms_in_chunks_and_layouts(shape, layout, inverse, monkeypatch):
    monkeypatch.setattr(sys.modules["gradtx.ops.dct"], "_CHUNK", 4000)
    n = shape[-1]
    j = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / (2 * n) * j[:, None] * (2 * j + 1)) * math.sqrt(2 / n)
    basis[0] = math.sqrt(1 / n)
    x = torch.randn(shape)
    transform = gx.ops.idct if inverse else gx.ops.dct
    got = transform(laid(x, layout) if x.ndim == 2 else x)
    want = x.double() @ (basis if inverse else basis.T)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=3e-6)


@pytest.mark.parametrize("inverse", [False, True])
def test_writing_is_declared(inverse):
    for x, twiddle, _ in dct_before_samples():
        rows, n = x.shape
        dtype = x.dtype if inverse else x.dtype.to_complex()
        spectrum = torch.ones(rows, n if inverse else n // 2 + 1, dtype=dtype)
        opcheck(AFTER, (torch.empty(rows, n, dtype=x.dtype), spectrum, twiddle, inverse))


@pytest.mark.skipif(not has_kernel("dct_before", "CPU"), reason="no CPU kernels")
@pytest.mark.parametrize(
    ("x", "twiddle", "words"),
    [
        (torch.ones(2, 4).int(), torch.ones(2, 3), "float32 or float64"),
        (torch.ones(4), torch.ones(2, 3), "matrix"),
        (torch.ones(2, 4), torch.ones(2, 2), "twiddle"),
        (torch.ones(2, 4), torch.ones(2, 3).double(), "twiddle"),
    ],
)
def test_kernels_reject(x, twiddle, words):
    with pytest.raises(RuntimeError, match=words):
        BEFORE(x, twiddle, False)
