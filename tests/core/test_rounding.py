"""Stochastic rounding: the bits of every result, its statistics, and apply_updates with it."""

from __future__ import annotations

import math

import pytest
import torch

import gradtx as gx
from gradtx.core.random import fold_in, make_key, random_bits16

N = 1 << 20
STEP = 2.0**-7  # of bfloat16 numbers in [1, 2)


def from_bits(*patterns: int) -> torch.Tensor:
    return torch.tensor(patterns, dtype=torch.int64).to(torch.int32).view(torch.float32)


def upper_bits(x: torch.Tensor) -> torch.Tensor:
    assert x.dtype == torch.bfloat16
    return x.view(torch.int16).to(torch.int64) & 0xFFFF


def draw(seed: int, n: int, step: int = 0) -> torch.Tensor:
    return random_bits16(make_key(seed, step), n)


def test_adds_the_integer_and_cuts_the_lower_half() -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 2**32, (N,), generator=generator)
    x = bits.to(torch.int32).view(torch.float32)
    random = torch.randint(0, 2**16, (N,), generator=generator)
    want = ((bits + random) % 2**32) >> 16
    finite = x.isfinite()
    assert finite.sum() > 0.98 * N
    got = upper_bits(gx.round_stochastically(x, random))
    assert torch.equal(got[finite], want[finite])
    for dtype in (torch.int32, torch.uint16):
        again = gx.round_stochastically(x, random.to(dtype))
        assert torch.equal(upper_bits(again), got)


def test_what_bfloat16_holds_stays() -> None:
    every = torch.arange(2**16).to(torch.int16).view(torch.bfloat16)
    wide = every.float()
    for random in (0, 1, 0x7FFF, 0xFFFF):
        got = gx.round_stochastically(wide, torch.full_like(wide, random, dtype=torch.int32))
        assert torch.equal(got.isnan(), wide.isnan())
        there = ~wide.isnan()
        assert torch.equal(upper_bits(got)[there], upper_bits(every)[there])


@pytest.mark.parametrize("random", [0, 0xFFFF])
def test_nan_and_infinity_pass_through(random: int) -> None:
    x = from_bits(0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F800000, 0xFF800000)
    got = gx.round_stochastically(x, torch.full((5,), random))
    assert got[:3].isnan().all()
    assert got[3:].tolist() == [math.inf, -math.inf]


def test_carry_beyond_the_largest() -> None:
    x = from_bits(0x7F7FFFFF, 0xFF7FFFFF, 0x7F7F0000)
    largest = torch.finfo(torch.bfloat16).max
    ones, zeros = torch.full((3,), 0xFFFF), torch.zeros(3, dtype=torch.int64)
    assert gx.round_stochastically(x, ones).tolist() == [math.inf, -math.inf, largest]
    clamped = gx.round_stochastically(x, ones, clamp=True)
    assert clamped.tolist() == [largest, -largest, largest]
    assert gx.round_stochastically(x, zeros).tolist() == [largest, -largest, largest]


def test_clamp_changes_nothing_else() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(-(2**31), 2**31, (N,), generator=generator).to(torch.int32)
    x = x.view(torch.float32)
    free = gx.round_stochastically(x, draw(0, N))
    clamped = gx.round_stochastically(x, draw(0, N), clamp=True)
    same = upper_bits(free) == upper_bits(clamped)
    assert (same | (free.isinf() & x.isfinite())).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_mean_and_neighbours(sign: float) -> None:
    share = 1 / 8
    x = torch.full((N,), sign * (1 + 2.0**-10))
    got = gx.round_stochastically(x, draw(1, N)).double()
    assert set(got.unique().tolist()) == {sign, sign * (1 + STEP)}
    error = (got.mean() - x[0].double()).abs()
    assert error < 4 * math.sqrt(share * (1 - share) / N) * STEP


def test_every_fraction_has_its_probability() -> None:
    n = 1 << 16
    low = torch.arange(64) * 1024 + 512
    x = (0x3F800000 + low).to(torch.int32).view(torch.float32)
    random = draw(2, 64 * n).reshape(64, n)
    up = gx.round_stochastically(x[:, None].expand(64, n), random).double() > 1
    share = low.double() / 2**16
    chi_square = ((up.double().mean(1) - share) ** 2 * n / (share * (1 - share))).sum()
    assert 33 < chi_square < 105  # 0.05 % and 99.9 % quantile, 64 degrees of freedom


def test_steps_elements_and_leaves_are_uncorrelated() -> None:
    x = torch.full((N,), 1 + STEP / 2)

    def ups(random: torch.Tensor) -> torch.Tensor:
        return 2 * (gx.round_stochastically(x, random).float() > 1).double() - 1

    first = ups(draw(3, N))
    others = [
        ups(draw(3, N, step=1)),
        ups(random_bits16(fold_in(make_key(3), "other"), N)),
        first.roll(1),
        first.roll(8),
    ]
    for other in others:
        assert (first * other).mean().abs() < 4 / math.sqrt(N)


def test_under_vmap_and_compile() -> None:
    x, random = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), draw(4, 15)
    random = random.reshape(3, 5)
    want = gx.round_stochastically(x, random)
    assert torch.equal(torch.func.vmap(gx.round_stochastically)(x, random), want)
    torch.compiler.reset()
    compiled = torch.compile(gx.round_stochastically, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, random), want)
    assert torch.equal(gx.round_stochastically(x.t(), random.t()), want.t())
    assert gx.round_stochastically(x[0, 0], random[0, 0]) == want[0, 0]


def test_errors() -> None:
    x, random = torch.ones(2), torch.zeros(2, dtype=torch.int32)
    with pytest.raises(TypeError, match="round_stochastically: x must be float32"):
        gx.round_stochastically(x.double(), random)
    with pytest.raises(TypeError, match="round_stochastically: random_bits must be integers"):
        gx.round_stochastically(x, x)
    with pytest.raises(ValueError, match=r"random_bits has shape \(1,\), x has \(2,\)"):
        gx.round_stochastically(x, random[:1])


def test_apply_updates_rounds_the_leaves_that_have_bits() -> None:
    ones = torch.ones(4, dtype=torch.bfloat16)
    params = {"a": ones, "b": ones, "c": torch.ones(4), "d": None}
    updates = {"a": torch.full((4,), STEP / 4), "b": torch.full((4,), STEP / 4)}
    updates |= {"c": torch.ones(4), "d": None}
    random = torch.tensor([0, 20000, 40000, 60000])
    bits = {"a": random, "b": None, "c": None, "d": None}
    out = gx.apply_updates(params, updates, random_bits=bits)
    assert out["a"].tolist() == [1.0, 1.0, 1.0, 1 + STEP]
    assert out["a"].dtype == torch.bfloat16
    assert out["b"].tolist() == [1.0] * 4
    assert out["c"].tolist() == [2.0] * 4
    assert out["d"] is None


def test_apply_updates_refuses_bits_for_other_dtypes_and_shapes() -> None:
    bits = {"w": torch.zeros(2, dtype=torch.int32)}
    for dtype in (torch.float32, torch.float16, torch.float64):
        params = {"w": torch.ones(2, dtype=dtype)}
        with pytest.raises(ValueError, match=r"apply_updates: leaf 'w' has random bits, but dtype"):
            gx.apply_updates(params, params, random_bits=bits)
    params = {"w": torch.ones(3, dtype=torch.bfloat16)}
    with pytest.raises(gx.TreeMismatchError, match=r"leaf 'w': random_bits has shape \(2,\)"):
        gx.apply_updates(params, params, random_bits=bits)
    with pytest.raises(gx.TreeMismatchError, match="apply_updates: the random_bits tree"):
        gx.apply_updates(params, params, random_bits={"v": bits["w"]})
