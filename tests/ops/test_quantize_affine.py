"""Affine block quantisation: the formula, its bounds, kernels against the reference, bad input."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import gradtx_cuda
from gradtx.core.random import fold_in, make_key, uniform
from gradtx.ops import OPS, Quantized, affine, dequantize_affine, quantize_affine

from .rows import FORMATS, assert_same_bits, values

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
BLOCKS = (1, 3, 4, 7, 64, 1000, 5000)
SIZES = (1, 2, 5, 127, 1024, 4099)


def unpack(codes: Tensor, bits: int, numel: int) -> list[int]:
    """Read the codes one by one, first element in the highest bits."""
    levels = []
    for i in range(numel):
        first = i * bits
        byte = int(codes[first // 8])
        levels.append(byte >> (8 - bits - first % 8) & (2**bits - 1))
    return levels


def steps(q: Quantized, bits: int, block_size: int, numel: int) -> tuple[Tensor, Tensor]:
    """Return lo and the step of every element, in float64."""
    lo, hi = q.lo.double(), q.hi.double()
    step = (hi - lo) / (2**bits - 1)
    return tuple(t.repeat_interleave(block_size)[:numel] for t in (lo, step))


def key_for(stochastic: bool) -> dict:
    return {"rounding": "stochastic", "key": make_key(5, 1)} if stochastic else {}


@pytest.mark.parametrize(("bits", "stochastic", "include_zero", "stats"), FORMATS)
@pytest.mark.parametrize("block_size", [3, 32, 1000])
def test_reference_against_float64(bits, stochastic, include_zero, stats, block_size):
    numel = 517
    x = values((numel,))
    arguments = key_for(stochastic)
    q = Quantized(
        *OPS["quantize_affine"].reference(
            x, bits, block_size, stochastic, arguments.get("key"), include_zero, stats
        )
    )
    for b, block in enumerate(x.double().split(block_size)):
        lo, hi = block.min(), block.max()
        if include_zero:
            continue  # the stored range is checked by test_zero_is_a_grid_point
        if stochastic:
            assert q.lo[b].double() <= lo
            assert q.hi[b].double() >= hi
            tolerance = 0 if stats == torch.float32 else 2.0**-7
            torch.testing.assert_close(q.lo[b].double(), lo, rtol=tolerance, atol=0)
            torch.testing.assert_close(q.hi[b].double(), hi, rtol=tolerance, atol=0)
        else:
            assert q.lo[b] == lo.to(stats)
            assert q.hi[b] == hi.to(stats)
    lo, step = steps(q, bits, block_size, numel)
    position = (x.double() - lo) / step
    rho = uniform(arguments["key"], (numel,)).double() if stochastic else 0.5
    exact = (position + rho).floor().nan_to_num(0).clamp(0, 2**bits - 1)
    levels = torch.tensor(unpack(q.codes, bits, numel), dtype=torch.float64)
    # Float32 may fall on the other side only where float64 is within rounding of the boundary.
    boundary = (position + rho - (position + rho).round()).abs() < 2.0**-14
    assert torch.all((levels == exact) | boundary | (step == 0))
    assert boundary.sum() <= 2 + (step == 0).sum() + (numel if block_size == 3 else 0)
    decoded = dequantize_affine(q, x.shape, bits, block_size)
    torch.testing.assert_close(
        decoded.double(), levels * step + lo, rtol=0, atol=float(4e-7 * x.abs().max())
    )


@pytest.mark.skipif(not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason)
@pytest.mark.parametrize(("bits", "stochastic", "include_zero", "stats"), FORMATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_kernel_bits(bits, stochastic, include_zero, stats, dtype):
    quantize, dequantize = OPS["quantize_affine"].reference, OPS["dequantize_affine"].reference
    key = make_key(2**40 + 1, 2**33 + 3) if stochastic else None
    for block_size, numel in itertools.product(BLOCKS, SIZES):
        args = (values((numel,), dtype), bits, block_size, stochastic, key, include_zero, stats)
        q = affine.quantize_affine(*args)
        assert_same_bits(q, quantize(*args))
        decode = (*q, bits, block_size, numel, dtype)
        assert_same_bits(affine.dequantize_affine(*decode), dequantize(*decode))


@pytest.mark.skipif(not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason)
def test_kernel_bits_do_not_depend_on_threads():
    x, key = values((300_001,)), make_key(1)
    args = (x, 4, 7, True, key, True, torch.bfloat16)
    expected = OPS["quantize_affine"].reference(*args)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert_same_bits(affine.quantize_affine(*args), expected)
    finally:
        torch.set_num_threads(threads)


SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 3e38, -3e38, 3.4e38, math.inf, -math.inf]


@pytest.mark.skipif(not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason)
@pytest.mark.parametrize(("bits", "stochastic", "include_zero", "stats"), FORMATS)
def test_kernel_bits_at_the_edges_of_float32(bits, stochastic, include_zero, stats):
    pairs = itertools.product([*SPECIAL, math.nan, 1.0], repeat=2)
    x = torch.tensor([v for pair in pairs for v in pair])
    key = make_key(3) if stochastic else None
    args = (x, bits, 2, stochastic, key, include_zero, stats)
    q = affine.quantize_affine(*args)
    assert_same_bits(q, OPS["quantize_affine"].reference(*args))
    decode = (*q, bits, 2, x.numel(), torch.float32)
    assert_same_bits(affine.dequantize_affine(*decode), OPS["dequantize_affine"].reference(*decode))


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    floats = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
    return torch.tensor(draw(st.lists(floats, min_size=1, max_size=40)))


@given(tensors(), st.sampled_from([2, 4, 8]), st.integers(1, 50), st.booleans())
def test_nearest_is_within_half_a_step(x, bits, block_size, include_zero):
    q = quantize_affine(x, bits, block_size, include_zero=include_zero)
    decoded = dequantize_affine(q, x.shape, bits, block_size)
    lo, step = steps(q, bits, block_size, x.numel())
    size = lo.abs() + (2**bits - 1) * step
    assert torch.all((x.double() - decoded).abs() <= step / 2 + 4 * 2.0**-24 * size)


@given(tensors(), st.sampled_from([2, 4, 8]), st.integers(1, 50), st.integers(0, 9))
def test_stochastic_is_within_a_step(x, bits, block_size, seed):
    q = quantize_affine(x, bits, block_size, rounding="stochastic", key=make_key(seed))
    decoded = dequantize_affine(q, x.shape, bits, block_size)
    lo, step = steps(q, bits, block_size, x.numel())
    size = lo.abs() + (2**bits - 1) * step
    assert torch.all((x.double() - decoded).abs() <= step + 4 * 2.0**-24 * size)


@given(
    tensors(),
    st.sampled_from([2, 4, 8]),
    st.integers(1, 50),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_zero_is_a_grid_point(x, bits, block_size, stochastic, stats):
    x = torch.where(torch.arange(x.numel()) % 3 == 0, 0.0, x)
    q = quantize_affine(
        x, bits, block_size, include_zero=True, stats_dtype=stats, **key_for(stochastic)
    )
    decoded = dequantize_affine(q, x.shape, bits, block_size)
    assert torch.all(decoded[x == 0] == 0)
    lo, step = steps(q, bits, block_size, x.numel())
    reach = (0 if stochastic else 0.5) * step + 1e-6 * x.abs()
    assert torch.all(lo - reach <= x)
    assert torch.all(x <= lo + (2**bits - 1) * step + reach)


@pytest.mark.parametrize("include_zero", [False, True])
@pytest.mark.parametrize("stats", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_stochastic_is_unbiased(bits, stats, include_zero):
    keys, copies, x = 20, 100, values((24,), seed=3)
    draws = keys * copies

    def roundtrip(key: Tensor) -> Tensor:
        q = quantize_affine(
            x.repeat(copies),
            bits,
            8,
            rounding="stochastic",
            key=key,
            include_zero=include_zero,
            stats_dtype=stats,
        )
        return dequantize_affine(q, (copies * 24,), bits, 8).view(copies, 24)

    rounded = torch.cat([roundtrip(fold_in(make_key(1), i)) for i in range(keys)])
    mean = rounded.double().mean(0)
    q = quantize_affine(x, bits, 8, include_zero=include_zero, stats_dtype=stats, **key_for(True))
    _, step = steps(q, bits, 8, x.numel())
    # A coin between two grid points has a deviation of at most half a step.
    assert torch.all((mean - x).abs() <= 4.5 * step / 2 / math.sqrt(draws) + 1e-6 * x.abs())


def test_nearest_is_biased_where_stochastic_is_not():
    x = torch.tensor([0.0, 0.3, 3.0])
    q = quantize_affine(x, 2)
    assert dequantize_affine(q, x.shape, 2)[1] == 0.0


def test_packing_order():
    x = torch.tensor([0.0, 1.0, 2.0, 3.0, 3.0])
    assert quantize_affine(x, 2).codes.tolist() == [0b00011011, 0b11000000]
    x = torch.tensor([0.0, 15.0, 7.0])
    assert quantize_affine(x, 4).codes.tolist() == [0x0F, 0x70]


def test_ties_round_up_and_codes_are_clamped():
    # A symmetric range puts zero on a tie, which the rounding of the step decides.
    assert unpack(quantize_affine(torch.tensor([-1.0, 0.0, 1.0])).codes, 4, 3) == [0, 7, 15]
    assert unpack(quantize_affine(torch.tensor([-7.5, 0.0, 7.5])).codes, 4, 3) == [0, 8, 15]
    # A bfloat16 range may end inside the data.
    x = torch.tensor([-1.001, 0.0, 1.001])
    q = quantize_affine(x, stats_dtype=torch.bfloat16)
    assert q.lo.item() == -1.0
    assert unpack(q.codes, 4, 3) == [0, 7, 15]


def test_constant_blocks_are_exact():
    x = torch.full((10,), 0.1)
    q = quantize_affine(x, block_size=4)
    assert q.codes.tolist() == [0] * 5
    assert torch.equal(dequantize_affine(q, x.shape, block_size=4), x)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("stochastic", [False, True])
def test_non_finite_values_stay_in_their_block(bad, stochastic):
    x = values((12,))
    x[5] = bad
    q = quantize_affine(x, block_size=4, **key_for(stochastic))
    decoded = dequantize_affine(q, x.shape, block_size=4)
    assert decoded[4:8].isnan().all()
    assert decoded[:4].isfinite().all()
    assert decoded[8:].isfinite().all()


def test_other_dtypes_go_through_float32():
    x = values((50,), torch.float64)
    assert_same_bits(quantize_affine(x), quantize_affine(x.float()))
    small = torch.tensor([0.5, -1.0, 0.25]).to(torch.float8_e4m3fn)
    assert_same_bits(quantize_affine(small), quantize_affine(small.float()))


def test_float32_scalars_and_shapes():
    x = values((2, 3, 4))
    decoded = dequantize_affine(quantize_affine(x), x.shape)
    assert decoded.shape == x.shape
    assert dequantize_affine(quantize_affine(x[0, 0, 0]), ()).shape == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 3}, r"bits must be one of \(2, 4, 8\), got 3"),
        ({"block_size": 0}, "block_size must be >= 1, got 0"),
        ({"x": torch.arange(4)}, "x must have a floating dtype, got torch.int64"),
        ({"x": torch.ones(2, dtype=torch.complex64)}, "x must have a floating dtype"),
        ({"stats_dtype": torch.float16}, "lo and hi must be one of .* got torch.float16"),
        ({"rounding": "up"}, "rounding must be 'nearest' or 'stochastic', got 'up'"),
        ({"rounding": "stochastic"}, "stochastic rounding needs a key"),
        ({"key": make_key(0)}, "key is only used by stochastic rounding"),
        (
            {"rounding": "stochastic", "key": torch.zeros(2)},
            r"key must be an int64 tensor of shape \(2,\), got torch.float32",
        ),
        (
            {"rounding": "stochastic", "key": make_key(0, device="meta")},
            "key is on meta but x on cpu",
        ),
    ],
)
def test_bad_quantize_arguments(changes, message):
    with pytest.raises(ValueError, match=f"quantize_affine: {message}"):
        quantize_affine(**{"x": torch.ones(4), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 5}, "bits must be one of"),
        ({"block_size": 0}, "block_size must be >= 1"),
        ({"shape": (11,)}, r"codes must be uint8 of shape \(6,\) for 11 elements of 4 bits"),
        ({"block_size": 3}, r"lo must have shape \(4,\) for 10 elements in blocks of 3"),
        ({"dtype": torch.int32}, "dtype must be one of"),
        ({"hi": torch.zeros(3)}, r"hi must have shape \(2,\)"),
        ({"hi": torch.zeros(2, dtype=torch.bfloat16)}, "lo and hi must share a dtype"),
        ({"hi": torch.zeros(2, device="meta")}, "hi is on meta but codes on cpu"),
        ({"codes": torch.zeros(5)}, "codes must be uint8"),
        (
            {"lo": torch.zeros(2).half(), "hi": torch.zeros(2).half()},
            "lo and hi must be one of",
        ),
    ],
)
def test_bad_dequantize_arguments(changes, message):
    q = quantize_affine(torch.ones(10), 4, 5)
    q = q._replace(**{name: changes[name] for name in ("codes", "lo", "hi") if name in changes})
    arguments = {"shape": (10,), "bits": 4, "block_size": 5, **changes}
    for name in q._fields:
        arguments.pop(name, None)
    with pytest.raises(ValueError, match=f"dequantize_affine: {message}"):
        dequantize_affine(q, **arguments)


@pytest.mark.parametrize(
    "args",
    [
        (torch.ones(4), 3, 4, False, None, False, torch.float32),
        (torch.ones(4), 4, 0, False, None, False, torch.float32),
        (torch.ones(4), 4, 4, True, None, False, torch.float32),
        (torch.ones(4), 4, 4, True, torch.zeros(3, dtype=torch.int64), False, torch.float32),
        (torch.ones(4), 4, 4, False, None, False, torch.float16),
    ],
)
def test_the_operator_checks_its_arguments(args):
    with pytest.raises((ValueError, RuntimeError), match="quantize_affine: "):
        affine.quantize_affine(*args)
