"""CUDA kernels, and the reference on a CUDA device, return the bits of the CPU."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from gradtx.core.random import fold_in, make_key, normal, uniform
from gradtx.ops import (
    OPS,
    affine,
    block_dequantize,
    block_quantize,
    microadam_,
    pack_signs,
    random_bits,
    unpack_signs,
)
from gradtx.ops.registry import has_kernel

from .rows import CASES, FORMATS, SAMPLES, assert_same_bits, values
from .test_microadam import LISTS, arguments

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_block_top_k(dtype):
    if not has_kernel("block_top_k", "CUDA"):
        pytest.skip("no CUDA kernels")
    for n, size, k, tail in ((1, 1, 1, 0), (300_001, 16384, 164, 51), (5000, 2500, 2500, 0)):
        for x in (values((n,), dtype), values((n,), dtype).round(), torch.ones(n, dtype=dtype)):
            args = (x, size, k, tail, torch.int16)
            want = OPS["block_top_k"].reference(*args)
            assert_same_bits(torch.ops.gradtx.block_top_k(*to_cuda(args)), want)


@pytest.mark.parametrize("policy", ["ignore", "skip", "raise"])
@pytest.mark.parametrize(
    "options",
    [{}, {"density": 1.0}, {"param": torch.bfloat16, "grad": torch.bfloat16}, {"block": 16384}],
)
def test_microadam(options, policy):
    if not has_kernel("microadam_", "CUDA"):
        pytest.skip("no CUDA kernels")
    sizes = (*range(1, 40), 0, 70_001)  # more leaves than one launch takes
    cpu = arguments(sizes, nonfinite=policy, **options)
    cuda = {k: [x.cuda() for x in v] if k in LISTS else v for k, v in cpu.items()}
    for t in range(5):
        cpu["grads"] = [values(tuple(g.shape), g.dtype, 50 + t) for g in cpu["grads"]]
        if t == 3 and policy != "ignore":
            cpu["grads"][7][2] = torch.inf
        cuda["grads"] = [g.cuda() for g in cpu["grads"]]
        flags = microadam_(**cuda)
        assert_same_bits(flags, OPS["microadam_"].reference(**cpu))
        for name in LISTS[2:]:
            for a, b in zip(cuda[name], cpu[name], strict=True):
                assert_same_bits(a, b)
        for a, b in zip(cuda["params"], cpu["params"], strict=True):
            torch.testing.assert_close(a.cpu(), b)


@pytest.mark.parametrize("numel", [1, 4, 1001, 1 << 20])
def test_random_bits(numel):
    if not has_kernel("random_bits", "CUDA"):
        pytest.skip("no CUDA kernels")
    key = make_key(-7, 2**40 + 3)
    assert_same_bits(random_bits(key.cuda(), numel), OPS["random_bits"].reference(key, numel))


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
