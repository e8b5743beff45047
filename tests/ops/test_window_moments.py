"""Moments of a sparse window: kernels against the reference, bad input."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import gradtx_cuda
from gradtx.ops import OPS, block_top_k, window_moments

from .rows import assert_same_bits, values

pytestmark = pytest.mark.skipif(not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason)


def window(
    numel: int, block: int, k: int, value: torch.dtype, weight: torch.dtype, index: torch.dtype
) -> tuple[Tensor, ...]:
    tail = min(numel % block, k)
    rows = [values((numel,), seed=s) for s in range(4)]
    indices = torch.stack([block_top_k(x, block, k, tail, index) for x in rows])
    weights = torch.tensor([0.9, 1.0, 0.0, 0.81], dtype=weight)
    return indices, values(tuple(indices.shape), value, 9), weights, weights.sqrt()


@pytest.mark.parametrize("value", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weight", [torch.float32, torch.float64])
@pytest.mark.parametrize("index", [torch.int16, torch.int32, torch.int64])
def test_kernel_bits(value, weight, index):
    for (block, k), numel in itertools.product(((1, 1), (16, 3), (1000, 10)), (0, 1, 53, 40_003)):
        args = (*window(numel, block, k, value, weight, index), numel, block, k)
        assert_same_bits(window_moments(*args), OPS["window_moments"].reference(*args))


@pytest.mark.parametrize("bad", [-1, 16])
def test_an_index_outside_its_block_is_an_error(bad):
    indices, *rest = window(64, 16, 3, torch.float32, torch.float32, torch.int16)
    indices[2, 4] = bad
    with pytest.raises(RuntimeError, match="an index points out of its block"):
        window_moments(indices, *rest, 64, 16, 3)


def test_rows_that_do_not_fit_are_an_error():
    args = window(64, 16, 3, torch.float32, torch.float32, torch.int16)
    with pytest.raises(RuntimeError, match="12 entries of a row, 3 a block, do not fit 32"):
        window_moments(*args, 32, 16, 3)
