"""Power-law block codes: the formula, its bounds, kernels against the reference, bad input."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import gradtx_cuda
from gradtx.ops import OPS, block_dequantize, block_quantize

from .rows import assert_same_bits, values

needs_kernels = pytest.mark.skipif(
    not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason
)
FORMATS = list(itertools.product((4, 8), (False, True)))
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def roundtrip(x: Tensor, bits: int, block_size: int, signed: bool) -> Tensor:
    codes, scale = block_quantize(x, bits, block_size, signed)
    return block_dequantize(codes, scale, x.numel(), bits, block_size, signed)


def unpack(codes: Tensor, bits: int, numel: int) -> list[int]:
    """Read the codes one by one, first element in the highest bits."""
    flat = [int(c) for c in codes]
    return flat if bits == 8 else [flat[i // 2] >> (4, 0)[i % 2] & 15 for i in range(numel)]


def grid(bits: int, signed: bool) -> Tensor:
    """The decoded value of every code in a block whose scale is 1, in float64."""
    if signed:
        top = 2 ** (bits - 1) - 1
        base = torch.arange(-top - 1, top + 1, dtype=torch.float64) / top
        return base * base.abs()
    return (torch.arange(1, 2**bits + 1, dtype=torch.float64) / 2**bits) ** 4


@pytest.mark.parametrize(("bits", "signed"), FORMATS)
@pytest.mark.parametrize("block_size", [3, 32, 1000])
def test_reference_against_float64(bits, signed, block_size):
    numel = 517
    x = values((numel,)) if signed else values((numel,)).square()
    codes, scale = OPS["block_quantize"].reference(x, bits, block_size, signed)
    levels = grid(bits, signed)
    for b, block in enumerate(x.double().split(block_size)):
        assert scale[b].double() == block.abs().max()
    scales = scale.double().repeat_interleave(block_size)[:numel]
    ratio = x.double() / scales
    chosen = torch.tensor(unpack(codes, bits, numel))
    if signed:
        top = 2 ** (bits - 1) - 1
        position = (top**2 * ratio.abs() - 0.25).clamp(min=0).sqrt() + 0.5
        exact = position.floor() * ratio.sign() + top + 1
    else:
        position = (4**bits * ratio.sqrt() + 1).sqrt() + 0.5
        exact = position.floor() - 1
    # Float32 may fall on the other side only where float64 is within rounding of the border.
    border = (position - position.round()).abs() < 2.0**-14
    assert torch.all((chosen == exact) | border)
    assert border.sum() <= 2 + numel // block_size
    decoded = OPS["block_dequantize"].reference(codes, scale, numel, bits, block_size, signed)
    torch.testing.assert_close(decoded.double(), levels[chosen] * scales, rtol=4e-7, atol=0)


@needs_kernels
@pytest.mark.parametrize(("bits", "signed"), FORMATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_kernel_bits(bits, signed, dtype):
    quantize, dequantize = OPS["block_quantize"].reference, OPS["block_dequantize"].reference
    for block_size, numel in itertools.product(
        (1, 3, 4, 7, 64, 1000, 5000), (1, 2, 5, 127, 1024, 4099)
    ):
        args = (values((numel,), dtype), bits, block_size, signed)
        codes, scale = block_quantize(*args)
        assert_same_bits((codes, scale), quantize(*args))
        decode = (codes, scale, numel, bits, block_size, signed)
        assert_same_bits(block_dequantize(*decode), dequantize(*decode))


@needs_kernels
@pytest.mark.parametrize(("bits", "signed"), FORMATS)
@pytest.mark.parametrize("block_size", [7, 256])
def test_kernel_bits_do_not_depend_on_threads(bits, signed, block_size):
    x = values((300_001,))
    expected = OPS["block_quantize"].reference(x, bits, block_size, signed)
    decode = (*expected, x.numel(), bits, block_size, signed)
    decoded = OPS["block_dequantize"].reference(*decode)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert_same_bits(block_quantize(x, bits, block_size, signed), expected)
            assert_same_bits(block_dequantize(*decode), decoded)
    finally:
        torch.set_num_threads(threads)


SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 3e38, -3e38, 3.4e38, math.inf, -math.inf]


@needs_kernels
@pytest.mark.parametrize(("bits", "signed"), FORMATS)
def test_kernel_bits_at_the_edges_of_float32(bits, signed):
    pairs = itertools.product([*SPECIAL, math.nan, -math.nan, 1.0], repeat=2)
    x = torch.tensor([v for pair in pairs for v in pair])
    codes, scale = block_quantize(x, bits, 2, signed)
    assert_same_bits((codes, scale), OPS["block_quantize"].reference(x, bits, 2, signed))
    decode = (codes, scale, x.numel(), bits, 2, signed)
    assert_same_bits(block_dequantize(*decode), OPS["block_dequantize"].reference(*decode))


@needs_kernels
@pytest.mark.parametrize(("bits", "signed"), FORMATS)
def test_kernel_decodes_every_code(bits, signed):
    codes = torch.arange(256, dtype=torch.uint8)
    decode = (codes, torch.tensor([3.0, 0.7]), 2048 // bits, bits, 1024 // bits, signed)
    assert_same_bits(block_dequantize(*decode), OPS["block_dequantize"].reference(*decode))


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    floats = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)
    x = torch.tensor(draw(st.lists(floats, min_size=1, max_size=40)))
    return torch.where(x.abs() < 2.0**-60, 0.0, x)


@given(tensors(), st.sampled_from([4, 8]), st.integers(1, 50))
def test_signed_codes_are_the_nearest(x, bits, block_size):
    decoded = roundtrip(x, bits, block_size, signed=True).double()
    levels = grid(bits, signed=True)[1:]
    for block, got in zip(x.double().split(block_size), decoded.split(block_size), strict=True):
        scale = block.abs().max()
        best = (block[:, None] - levels * scale).abs().amin(1)
        assert torch.all((block - got).abs() <= best + 1e-6 * scale)


@given(tensors(), st.sampled_from([4, 8]), st.integers(1, 50))
def test_unsigned_codes_are_within_a_level(x, bits, block_size):
    x = x.abs()
    decoded = roundtrip(x, bits, block_size, signed=False).double()
    for block, got in zip(x.double().split(block_size), decoded.split(block_size), strict=True):
        position = 2**bits * (block / block.max().clamp(min=1e-60)) ** 0.25
        level = 2**bits * (got / block.max().clamp(min=1e-60)) ** 0.25
        assert torch.all((position - level).abs() <= 1 + 1e-4)


@given(tensors(), st.sampled_from([4, 8]), st.integers(1, 50), st.booleans())
def test_coding_again_changes_nothing(x, bits, block_size, signed):
    x = x if signed else x.abs()
    first = block_quantize(x, bits, block_size, signed)
    decoded = block_dequantize(*first, x.numel(), bits, block_size, signed)
    assert_same_bits(block_quantize(decoded, bits, block_size, signed), first)


@given(tensors(), st.sampled_from([4, 8]), st.integers(1, 50))
def test_zeros(x, bits, block_size):
    """Signed zeros are exact; unsigned ones are positive unless their block is all zero."""
    x = torch.where(torch.arange(x.numel()) % 3 == 0, 0.0, x)
    assert torch.all(roundtrip(x, bits, block_size, signed=True)[x == 0] == 0)
    x = x.abs()
    decoded = roundtrip(x, bits, block_size, signed=False)
    for block, got in zip(x.split(block_size), decoded.split(block_size), strict=True):
        assert torch.all(got > 0) if block.max() > 0 else torch.all(got == 0)


@given(tensors(), st.sampled_from([4, 8]), st.integers(1, 50), st.booleans())
def test_the_largest_magnitude_is_exact(x, bits, block_size, signed):
    x = x if signed else x.abs()
    decoded = roundtrip(x, bits, block_size, signed)
    for block, got in zip(x.split(block_size), decoded.split(block_size), strict=True):
        largest = block.abs().max()
        assert torch.equal(got[block.abs() == largest], block[block.abs() == largest] + 0.0)


@pytest.mark.parametrize(("bits", "signed"), FORMATS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_values_stay_in_their_block(bits, signed, bad):
    if bad == -math.inf and not signed:
        pytest.skip("negative values count as zero")
    x = values((12,)).abs()
    x[5] = bad
    decoded = roundtrip(x, bits, 4, signed)
    assert decoded[4:8].isnan().all()
    assert decoded[:4].isfinite().all()
    assert decoded[8:].isfinite().all()


def test_negative_values_count_as_zero_where_there_is_no_sign():
    x = torch.tensor([-5.0, 1.0, 0.5])
    codes, scale = block_quantize(x, 8, 4, False)
    assert_same_bits((codes, scale), block_quantize(x.clamp(min=0), 8, 4, False))
    assert scale.item() == 1.0


def test_packing_order():
    x = torch.tensor([1.0, 0.0, -1.0])
    assert block_quantize(x, 4, 128, True)[0].tolist() == [0xF8, 0x10]
    assert block_quantize(x, 8, 128, True)[0].tolist() == [255, 128, 1]
    assert block_quantize(x.abs(), 4, 128, False)[0].tolist() == [0xF0, 0xF0]


@pytest.mark.parametrize("backend", ["dispatched", "reference"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 2}, "bits must be .*4.* 8.* got 2"),
        ({"block_size": 0}, "block_size must be >= 1, got 0"),
        ({"x": torch.arange(4)}, "x must be "),
        ({"x": torch.ones(2, dtype=torch.complex64)}, "x must be "),
        ({"x": torch.ones(2, 2)}, "x must be flat"),
    ],
)
def test_bad_quantize_arguments(changes, message, backend):
    op = block_quantize if backend == "dispatched" else OPS["block_quantize"].reference
    arguments = {"x": torch.ones(4), "bits": 4, "block_size": 2, "signed": True, **changes}
    with pytest.raises((ValueError, RuntimeError), match=f"block_quantize: {message}"):
        op(*arguments.values())


@pytest.mark.parametrize("backend", ["dispatched", "reference"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 3}, "bits must be"),
        ({"block_size": 0}, "block_size must be >= 1"),
        ({"numel": -1}, "numel must be >= 0, got -1"),
        ({"numel": 11}, r"codes must be torch.uint8 of shape \(6,\)"),
        ({"codes": torch.zeros(5)}, "codes must be torch.uint8"),
        ({"codes": torch.zeros(1, 5, dtype=torch.uint8)}, "codes must be torch.uint8 of shape"),
        ({"block_size": 3}, r"scale must be torch.float32 of shape \(4,\)"),
        ({"scale": torch.zeros(2).bfloat16()}, "scale must be torch.float32"),
    ],
)
def test_bad_dequantize_arguments(changes, message, backend):
    op = block_dequantize if backend == "dispatched" else OPS["block_dequantize"].reference
    codes, scale = block_quantize(torch.ones(10), 4, 5, True)
    arguments = {"codes": codes, "scale": scale, "numel": 10, "bits": 4, "block_size": 5}
    with pytest.raises((ValueError, RuntimeError), match=f"block_dequantize: {message}"):
        op(*{**arguments, **changes}.values(), True)
