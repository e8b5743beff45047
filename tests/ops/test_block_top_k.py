"""Block-wise selection: kernels against the reference, ties, threads."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import gradtx_cuda
from gradtx.ops import OPS, block_top_k

from .rows import assert_same_bits, values

pytestmark = pytest.mark.skipif(not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason)
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check(x: torch.Tensor, block: int, density: float, dtype: torch.dtype = torch.int16) -> None:
    block = max(min(block, x.numel()), 1)
    k, k_tail = (math.ceil(n * density) for n in (block, x.numel() % block))
    args = (x, block, k, k_tail, dtype)
    assert_same_bits(block_top_k(*args), OPS["block_top_k"].reference(*args))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.4, 0.99, 1.0])
def test_kernel_is_exact(dtype, density):
    for block, numel in itertools.product((1, 7, 64, 1000, 16384), (0, 1, 5, 64, 1029, 40_000)):
        check(values((numel,), dtype), block, density)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("density", [0.003, 0.05, 0.7])
def test_ties_go_to_the_lower_index(dtype, density):
    few = torch.randint(-3, 4, (20_000,), generator=torch.Generator().manual_seed(0)).to(dtype)
    for x in (few, torch.zeros(20_000, dtype=dtype), torch.full((20_000,), -2.0, dtype=dtype)):
        check(x, 4096, density, torch.int32)


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_and_infinity(dtype):
    for bad in ([math.nan], [math.inf], [-math.inf, math.nan, math.inf] * 20, [-0.0] * 900):
        x = values((3000,), dtype)
        x[100 : 100 + len(bad)] = torch.tensor(bad, dtype=dtype)
        check(x, 1000, 0.02)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_index_dtypes_and_strides(dtype):
    check(values((4000, 2))[:, 0], 500, 0.03, dtype)


def test_threads_do_not_matter():
    x, threads = values((300_001,)), torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            check(x, 1024, 0.01)
    finally:
        torch.set_num_threads(threads)
