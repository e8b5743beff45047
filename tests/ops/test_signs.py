"""Packed signs: where every bit goes, kernels against the reference, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradtx_cuda
from gradtx.ops import OPS, pack_signs, unpack_signs

from .rows import assert_same_bits, values

needs_kernels = pytest.mark.skipif(
    not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason
)
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def test_bits_go_from_the_lowest_up_and_rows_start_anew():
    x = -torch.ones(2, 10)
    x[0, 0] = x[0, 3] = x[0, 9] = x[1, 7] = 1
    assert pack_signs(x).tolist() == [[0b00001001, 0b10], [0b10000000, 0]]


def test_only_strictly_positive_numbers_have_a_bit():
    x = torch.tensor([[0.0, -0.0, math.nan, -math.nan, 1e-45, -1e-45, math.inf, -math.inf]])
    for pack in (pack_signs, OPS["pack_signs"].reference):
        assert pack(x).tolist() == [[0b01010000]]
    tiny = torch.tensor([[1e-300, -1e-300]], dtype=torch.float64)
    assert pack_signs(tiny).tolist() == [[1]]


@given(st.integers(0, 20), st.integers(0, 40), st.integers(0, 9))
def test_unpacking_gives_the_signs(rows, columns, seed):
    x = values((rows, columns), seed=seed)
    bits = pack_signs(x)
    assert bits.shape == (rows, math.ceil(columns / 8))
    assert torch.equal(unpack_signs(bits, columns), x > 0)


@needs_kernels
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 8), (3, 7), (64, 64), (9, 1025), (1, 5003), (513, 3)]
)
def test_kernel_bits(shape, dtype):
    x = values(shape, dtype)
    bits = pack_signs(x)
    assert_same_bits(bits, OPS["pack_signs"].reference(x))
    assert_same_bits(unpack_signs(bits, shape[1]), OPS["unpack_signs"].reference(bits, shape[1]))


@needs_kernels
@pytest.mark.parametrize("shape", [(301, 1000), (1, 300_001), (300_001, 1)])
def test_kernel_bits_do_not_depend_on_threads(shape):
    x = values(shape)
    expected = OPS["pack_signs"].reference(x)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert_same_bits(pack_signs(x), expected)
            assert_same_bits(unpack_signs(expected, shape[1]), x > 0)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("backend", ["dispatched", "reference"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 3, dtype=torch.int32), "x must be"),
        (torch.ones(2, 3, dtype=torch.complex64), "x must be"),
        (torch.ones(6), "x must be a matrix"),
        (torch.ones(1, 2, 3), "x must be a matrix"),
    ],
)
def test_bad_matrices(x, message, backend):
    pack = pack_signs if backend == "dispatched" else OPS["pack_signs"].reference
    with pytest.raises((ValueError, RuntimeError), match=f"pack_signs: {message}"):
        pack(x)


@pytest.mark.parametrize("backend", ["dispatched", "reference"])
@pytest.mark.parametrize(
    ("bits", "columns", "message"),
    [
        (torch.zeros(2, 2, dtype=torch.uint8), 8, r"bits must be uint8 of shape \(rows, 1\)"),
        (torch.zeros(2, 2, dtype=torch.uint8), 17, r"bits must be uint8 of shape \(rows, 3\)"),
        (torch.zeros(2, 2), 16, "bits must be uint8"),
        (torch.zeros(2, dtype=torch.uint8), 8, "bits must be uint8"),
        (torch.zeros(2, 0, dtype=torch.uint8), -1, "columns must be >= 0, got -1"),
    ],
)
def test_bad_bits(bits, columns, message, backend):
    unpack = unpack_signs if backend == "dispatched" else OPS["unpack_signs"].reference
    with pytest.raises((ValueError, RuntimeError), match=f"unpack_signs: {message}"):
        unpack(bits, columns)
