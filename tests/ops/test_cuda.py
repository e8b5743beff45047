"""CUDA kernels, and the reference on a CUDA device, return the bits of the CPU."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from gradtx.__main__ import has_kernel
from gradtx.core.random import fold_in, make_key, normal, random_bits, uniform
from gradtx.ops import (
    OPS,
    affine,
    block_dequantize,
    block_quantize,
    hadamard,
    pack_signs,
    unpack_signs,
)

from .rows import CASES, FORMATS, SAMPLES, assert_same_bits, values

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def to_cuda(args: tuple) -> tuple:
    return tuple(a.cuda() if isinstance(a, Tensor) else a for a in args)


@pytest.mark.parametrize(("name", "index"), CASES)
@pytest.mark.parametrize("backend", ["dispatched", "reference"])
def test_samples(name, index, backend):
    args = SAMPLES[name]()[index]
    op = OPS[name].reference
    if backend == "dispatched":
        op = getattr(torch.ops.gradtx, name).default
    assert_same_bits(op(*to_cuda(args)), OPS[name].reference(*args))


@pytest.mark.parametrize(("bits", "stochastic", "include_zero", "stats"), FORMATS)
def test_kernel_bits(bits, stochastic, include_zero, stats):
    if not has_kernel("quantize_affine", "CUDA"):
        pytest.skip("no CUDA kernels")
    key = make_key(2**40 + 1, 2**33 + 3) if stochastic else None
    sizes = itertools.product((1, 3, 64, 2048, 2049, 5000), (1, 127, 4099, 300_001))
    for (block_size, numel), dtype in itertools.product(sizes, (torch.float32, torch.bfloat16)):
        args = (values((numel,), dtype), bits, block_size, stochastic, key, include_zero, stats)
        expected = OPS["quantize_affine"].reference(*args)
        q = affine.quantize_affine(*to_cuda(args))
        assert_same_bits(q, expected)
        decoded = affine.dequantize_affine(*q, bits, block_size, numel, dtype)
        reference = OPS["dequantize_affine"].reference(*expected, bits, block_size, numel, dtype)
        assert_same_bits(decoded, reference)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_block_codes(bits, signed):
    if not has_kernel("block_quantize", "CUDA"):
        pytest.skip("no CUDA kernels")
    for block_size, numel in itertools.product((1, 3, 128, 5000), (1, 127, 4099, 300_001)):
        args = (values((numel,)), bits, block_size, signed)
        expected = OPS["block_quantize"].reference(*args)
        codes = block_quantize(*to_cuda(args))
        assert_same_bits(codes, expected)
        rest = (numel, bits, block_size, signed)
        decoded = OPS["block_dequantize"].reference(*expected, *rest)
        assert_same_bits(block_dequantize(*codes, *rest), decoded)


@pytest.mark.parametrize("shape", [(1, 300_001), (300_001, 1), (1024, 1024), (517, 1003)])
def test_signs(shape):
    if not has_kernel("pack_signs", "CUDA"):
        pytest.skip("no CUDA kernels")
    x = values(shape)
    bits = pack_signs(x.cuda())
    assert_same_bits(bits, OPS["pack_signs"].reference(x))
    assert_same_bits(unpack_signs(bits, shape[1]), x > 0)


@pytest.mark.parametrize("shape", [(300, 1), (37, 64), (5, 8192), (3, 1 << 15), (1, 1 << 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_hadamard(shape, dtype):
    if not has_kernel("hadamard", "CUDA"):
        pytest.skip("no CUDA kernels")
    x = values(shape, dtype)
    assert_same_bits(hadamard(x.cuda()), OPS["hadamard"].reference(x))


def test_kernels_use_the_current_stream():
    x, stream = values((1 << 20,)).cuda(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        doubled = x * 2
        q = affine.quantize_affine(doubled, 4, 64, False, None, False, torch.float32)
    stream.synchronize()
    assert_same_bits(q, affine.quantize_affine(x * 2, 4, 64, False, None, False, torch.float32))


def test_random_numbers_match_the_cpu():
    key = make_key(9, 4)
    for draw in (lambda k: random_bits(k, 1003), lambda k: uniform(fold_in(k, "a"), (7, 9))):
        assert torch.equal(draw(key.cuda()).cpu(), draw(key))
    torch.testing.assert_close(normal(key.cuda(), (99,)).cpu(), normal(key, (99,)))
