"""Philox: published vectors, the layout of the stream, transformations, statistics."""

from __future__ import annotations

import math

import pytest
import torch

from gradtx.core.random import (
    Numbers,
    derived_key,
    fold_in,
    make_key,
    next_key,
    normal,
    philox,
    random_bits,
    random_bits16,
    uniform,
)

VECTORS = [
    ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text: str) -> list[torch.Tensor]:
    return [torch.tensor(int(word, 16)) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_published_vectors(counter, key, expected):
    assert philox(words(counter), words(key)) == tuple(words(expected))


def test_layout_of_the_stream():
    seed, counter = 0x0123456789ABCDEF, 0x00000005FFFFFFFF
    bits = random_bits(make_key(seed, counter), 11)
    for i in range(11):
        block = [torch.tensor(v) for v in (i // 4, 0, counter & 0xFFFFFFFF, counter >> 32)]
        key = [torch.tensor(seed & 0xFFFFFFFF), torch.tensor(seed >> 32)]
        assert bits[i] == philox(block, key)[i % 4]


def test_a_longer_draw_starts_with_the_shorter_one():
    key = make_key(3)
    assert torch.equal(random_bits(key, 100)[:37], random_bits(key, 37))
    assert random_bits(key, 0).shape == (0,)


def test_halves_of_the_words():
    key = make_key(4, 9)
    words = random_bits(key, 12)
    halves = random_bits16(key, 21)
    assert (halves.dtype, halves.shape) == (torch.int32, (21,))
    for i in range(21):
        assert halves[i] == words[i // 2] >> 16 * (i % 2) & 0xFFFF
    assert torch.equal(random_bits16(key, 8), halves[:8])
    assert random_bits16(key, 0).shape == (0,)
    with pytest.raises(ValueError, match="numel"):
        random_bits16(key, -2)


@pytest.mark.parametrize("make", [int, torch.tensor])
def test_parts_have_the_numbers_of_the_whole(make):
    key = make_key(4, 9)
    bits, noise = random_bits16(key, 77).view(7, 11), normal(key, (7, 11))
    for rows, columns in (
        ((0, 7), (0, 11)),
        ((1, 4), (2, 9)),
        ((6, 7), (10, 11)),
        ((2, 2), (0, 4)),
    ):
        where = slice(*rows), slice(*columns)
        shape = bits[where].shape
        numbers = Numbers(*map(make, (11 * rows[0] + columns[0], shape[1], 11)))
        assert torch.equal(random_bits16(key, shape.numel(), numbers), bits[where].reshape(-1))
        assert torch.equal(normal(key, shape, numbers=numbers), noise[where])
    far = random_bits16(key, 3, Numbers(*map(make, (2**40 + 7, 2, 2**40))))
    for i, number in enumerate((2**40 + 7, 2**40 + 8, 2**41 + 7)):
        words = [number // 8 & 0xFFFFFFFF, number // 8 >> 32, 9, 0]
        drawn = philox(list(map(torch.tensor, words)), [torch.tensor(4), torch.tensor(0)])
        assert far[i] == drawn[number % 8 // 2] >> 16 * (number % 2) & 0xFFFF


def test_seeds_are_64_bit_words():
    assert torch.equal(make_key(-1), make_key(2**64 - 1))
    with pytest.raises(ValueError, match="seed must fit in 64 bits"):
        make_key(2**64)


def test_keys_differ():
    key = make_key(1)
    keys = [key, next_key(key), fold_in(key, 0), fold_in(key, 1), fold_in(key, "a"), make_key(2)]
    draws = {tuple(random_bits(k, 4).tolist()) for k in keys}
    assert len(draws) == len(keys)
    assert fold_in(make_key(1, 9), "a")[1] == 9
    # Pinned: checkpoints depend on it.
    assert fold_in(make_key(1), "weight").tolist() == [7097057752755290129, 0]


@pytest.mark.parametrize(
    "bad", [torch.zeros(2), torch.zeros(3, dtype=torch.int64), torch.tensor(1)]
)
@pytest.mark.parametrize("call", [next_key, lambda k: fold_in(k, 1), lambda k: random_bits(k, 4)])
def test_bad_keys(call, bad):
    with pytest.raises(ValueError, match=r"key must be an int64 tensor of shape \(2,\)"):
        call(bad)


def test_bad_arguments():
    key = make_key(0)
    with pytest.raises(ValueError, match="numel must be >= 0"):
        random_bits(key, -1)
    with pytest.raises(ValueError, match="uniform: dtype"):
        uniform(key, (2,), torch.int32)
    with pytest.raises(ValueError, match="normal: dtype"):
        normal(key, (2,), torch.int32)


def draw(key: torch.Tensor) -> torch.Tensor:
    return uniform(fold_in(next_key(key), "leaf"), (3, 5))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own
def test_compiled_code_draws_the_same():
    # "leaf" hashes to a number above 2**63, which folded constants must not overflow.
    key = make_key(-5, 3)
    torch.compiler.reset()
    assert torch.equal(torch.compile(draw, fullgraph=True)(key), draw(key))


def test_vmap_draws_the_same():
    keys = torch.stack([make_key(i, 3) for i in range(3)])
    mapped = torch.vmap(draw)(keys)
    for i, key in enumerate(keys):
        assert torch.equal(mapped[i], draw(key))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_uniform_is_uniform(dtype):
    n = 1 << 16
    draws = uniform(make_key(11), (256, 256), dtype)
    assert draws.dtype == dtype
    assert draws.shape == (256, 256)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws.double(), bins=16, min=0, max=1)
    chi_square = ((counts - n / 16) ** 2 / (n / 16)).sum()
    assert chi_square < 37.7  # 99.9 % quantile, 15 degrees of freedom


def test_uniform_float32_formula():
    key = make_key(5)
    assert torch.equal(uniform(key, (9,)).double(), (random_bits(key, 9) >> 8).double() / 2**24)


def test_normal_is_normal():
    n = 1 << 16
    draws = normal(make_key(13), (n,), torch.float64)
    cdf = torch.special.ndtr(draws.sort().values)
    grid = (torch.arange(n) + 0.5) / n
    assert (cdf - grid).abs().max() < 1.95 / math.sqrt(n)  # Kolmogorov-Smirnov, 99.9 %
    assert draws.isfinite().all()
    lag_one = (draws[1:] * draws[:-1]).mean()
    assert lag_one.abs() < 4 / math.sqrt(n)


def test_normal_shapes():
    key = make_key(1)
    assert normal(key, (3, 1), torch.bfloat16).shape == (3, 1)
    assert normal(key, ()).shape == ()
    assert torch.equal(normal(key, (5,)), normal(key, (6,))[:5])


@pytest.mark.parametrize("seed", [0, -3, 2**63 - 1, -(2**63), 2**64 - 1])
@pytest.mark.parametrize("data", [0, 1, 2**40 + 5, -1, "w", "layer/0.weight"])
def test_a_derived_key_is_a_folded_one(seed: int, data: int | str) -> None:
    assert torch.equal(derived_key(seed, data), fold_in(make_key(seed), data))


def test_a_derived_key_of_a_tensor_is_mapped() -> None:
    keys = torch.func.vmap(lambda seed: derived_key(seed, "w"))(torch.tensor([1, -2]))
    assert torch.equal(keys, torch.stack([derived_key(1, "w"), derived_key(-2, "w")]))
    with pytest.raises(ValueError, match="derived_key: seed must be a 64-bit integer"):
        derived_key(2**64, "w")
