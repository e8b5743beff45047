"""Products with a window: kernels against the reference and against float64, bad input."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import gradtx_cuda
from gradtx.ops import OPS, block_top_k, sparse_window_combine, sparse_window_dots, window_dots

from .rows import assert_same_bits, values

pytestmark = pytest.mark.skipif(not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason)
WEIGHTS = torch.tensor([0.9, 1.0, 0.0, -0.81], dtype=torch.float64)


def rows(
    numel: int, block: int, k: int, value: torch.dtype, index: torch.dtype
) -> tuple[Tensor, Tensor]:
    tail = min(numel % block, k)
    dense = [values((numel,), seed=s) for s in range(4)]
    indices = torch.stack([block_top_k(x, block, k, tail, index) for x in dense])
    return indices, values(tuple(indices.shape), value, 9)


def close(got: Tensor, want: Tensor, size: Tensor, eps: float) -> None:
    """Equal up to a few roundings of the largest term."""
    assert got.dtype == want.dtype
    assert bool(((got - want).abs() <= 4 * eps * size).all())


@pytest.mark.parametrize("value", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("index", [torch.int16, torch.int32, torch.int64])
def test_sparse_kernels(value, index):
    for (block, k), numel in itertools.product(((1, 1), (16, 3), (30_000, 9000)), (0, 53, 70_003)):
        window = rows(numel, block, k, value, index)
        args = (*window, WEIGHTS, numel, block, k)
        assert_same_bits(
            sparse_window_combine(*args), OPS["sparse_window_combine"].reference(*args)
        )
        for wide in (torch.float32, torch.float64):
            x = values((numel,), wide, 4)
            want = OPS["sparse_window_dots"].reference(*window, x, block, k)
            size = OPS["sparse_window_dots"].reference(
                window[0], window[1].abs(), x.abs(), block, k
            )
            close(sparse_window_dots(*window, x, block, k), want, size, 2.0**-52)


@pytest.mark.parametrize("value", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dense_kernel(value):
    for m, n in ((1, 1), (3, 17), (5, 20_003)):
        window, x = values((m, n), value), values((n,), seed=2)
        want, size = window.double() @ x.double(), window.double().abs() @ x.double().abs()
        close(window_dots(window, x), want, size, 2.0**-52)


def test_the_sum_is_as_exact_as_float32_allows():
    """At most twice the error of the reference in float32."""
    window = rows(40_000, 16_384, 164, torch.float32, torch.int16)
    exact = sparse_window_combine(window[0], window[1].double(), WEIGHTS, 40_000, 16_384, 164)
    got = sparse_window_combine(*window, WEIGHTS, 40_000, 16_384, 164)
    plain = OPS["sparse_window_combine"].reference(*window, WEIGHTS, 40_000, 16_384, 164)
    assert (got - exact).abs().max() <= 2 * (plain - exact).abs().max()


def test_bits_do_not_depend_on_threads():
    window, x = rows(70_003, 1000, 10, torch.float32, torch.int16), values((70_003,), seed=3)
    before = torch.get_num_threads()
    dots = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            dense = window_dots(x.reshape(1, -1).repeat(3, 1), x)
            dots.append(torch.cat([sparse_window_dots(*window, x, 1000, 10), dense]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*dots)


@pytest.mark.parametrize("bad", [-1, 16])
def test_an_index_outside_its_block_is_an_error(bad):
    indices, kept = rows(64, 16, 3, torch.float32, torch.int16)
    indices[2, 4] = bad
    for call in (
        lambda: sparse_window_dots(indices, kept, torch.ones(64), 16, 3),
        lambda: sparse_window_combine(indices, kept, WEIGHTS, 64, 16, 3),
    ):
        with pytest.raises(RuntimeError, match="an index points out of its block"):
            call()


def test_rows_that_do_not_fit_are_an_error():
    window = rows(64, 16, 3, torch.float32, torch.int16)
    with pytest.raises(RuntimeError, match="12 entries of a row, 3 a block, do not fit 32"):
        sparse_window_dots(*window, torch.ones(32), 16, 3)
