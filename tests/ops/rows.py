"""One row an operator: sample arguments that the whole battery runs on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradtx.core.random import make_key, normal
from gradtx.ops import (
    block_fisher,
    block_quantize,
    block_top_k,
    pack_signs,
    quantize_affine,
    quantize_symmetric,
    random_bits16,
)
from gradtx.ops.dct_halves import halves_table

Samples = Callable[[], list[tuple[Any, ...]]]

FORMATS = list(
    itertools.product((2, 4, 8), (False, True), (False, True), (torch.float32, torch.bfloat16))
)


def values(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Draw normal numbers whose scale varies over four orders of magnitude."""
    draws = normal(make_key(seed), (2, *shape), torch.float64)
    return (draws[0] * 10.0 ** (draws[1].clamp(-2, 2))).to(dtype)


def quantize_samples() -> list[tuple[Any, ...]]:
    samples: list[tuple[Any, ...]] = [
        (values((6, 7)), 4, 7, False, None, False, torch.float32),
        (values((4, 16)), 4, 16, False, None, True, torch.bfloat16),
        (values((3, 5, 2), torch.bfloat16), 2, 3, True, make_key(7, 2), False, torch.bfloat16),
        (values((90,), torch.float16), 8, 64, True, make_key(7, 2), True, torch.float32),
        (values((40,), torch.float64), 8, 1000, False, None, False, torch.float32),
        (values((8, 6)).t(), 4, 5, False, None, False, torch.float32),
        (values((0, 3)), 4, 64, False, None, False, torch.float32),
        (values(()), 2, 1, False, None, True, torch.float32),
    ]
    return samples


def dequantize_samples() -> list[tuple[Any, ...]]:
    samples: list[tuple[Any, ...]] = []
    for numel, bits, block_size, stats, dtype in (
        (42, 4, 7, torch.float32, torch.float32),
        (64, 4, 16, torch.bfloat16, torch.bfloat16),
        (31, 2, 3, torch.float32, torch.float16),
        (90, 8, 64, torch.bfloat16, torch.float64),
        (0, 4, 64, torch.float32, torch.float32),
    ):
        q = quantize_affine(values((numel,)), bits, block_size, stats_dtype=stats)
        samples.append((*q, bits, block_size, numel, dtype))
    return samples


def quantize_symmetric_samples() -> list[tuple[Any, ...]]:
    return [
        (values((6, 7)), 4, 7, False, None, torch.float32),
        (values((4, 16)), 8, 16, False, None, torch.bfloat16),
        (values((3, 5, 2), torch.bfloat16), 2, 3, True, make_key(7, 2), torch.bfloat16),
        (values((90,), torch.float16), 8, 64, True, make_key(7, 2), torch.float32),
        (values((8, 6)).t(), 4, 1000, False, None, torch.float32),
        (values((0, 3)), 4, 64, False, None, torch.float32),
    ]


def dequantize_symmetric_samples() -> list[tuple[Any, ...]]:
    samples: list[tuple[Any, ...]] = []
    for numel, bits, block_size, scale, dtype in (
        (42, 4, 7, torch.float32, torch.float32),
        (64, 8, 16, torch.bfloat16, torch.bfloat16),
        (31, 2, 3, torch.float32, torch.float64),
        (0, 4, 64, torch.float32, torch.float32),
    ):
        x = values((numel,))
        q = quantize_symmetric(x, bits, block_size, False, None, scale)
        samples.append((*q, bits, block_size, numel, dtype))
    return samples


def block_top_k_samples() -> list[tuple[Any, ...]]:
    return [
        (values((48,)), 16, 3, 0, torch.int16),
        (values((53,)), 16, 3, 1, torch.int16),
        (values((40,), torch.bfloat16).round(), 9, 4, 2, torch.int32),
        (values((33,), torch.float64), 33, 33, 0, torch.int32),
        (torch.zeros(20), 8, 2, 1, torch.int64),
        (values((0,)), 1, 1, 0, torch.int16),
    ]


def window_moments_samples() -> list[tuple[Any, ...]]:
    samples: list[tuple[Any, ...]] = []
    for numel, block, k, k_tail, dtype in (
        (48, 16, 3, 0, torch.float32),
        (53, 16, 3, 1, torch.bfloat16),
        (7, 7, 7, 0, torch.float32),
        (0, 1, 1, 0, torch.float32),
    ):
        rows = [values((numel,), seed=seed) for seed in range(3)]
        indices = torch.stack([block_top_k(x, block, k, k_tail, torch.int16) for x in rows])
        kept = values(tuple(indices.shape), dtype, seed=9)
        weights = torch.tensor([0.5, 0.0, 1.0])
        samples.append((indices, kept, weights, weights.sqrt(), numel, block, k))
    return samples


def window_dots_samples() -> list[tuple[Any, ...]]:
    """Small integers, whose sums are exact in any order."""
    return [
        (whole(3, 70), whole(70)),
        (whole(5, 9, dtype=torch.bfloat16), whole(9)),
        (whole(9, 4, dtype=torch.float64).t(), whole(9, dtype=torch.float64)),
        (whole(2, 0), whole(0)),
    ]


def sparse_rows(numel: int, block: int, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Three rows by their largest entries, small integers."""
    tail = min(numel % block, k)
    rows = [values((numel,), seed=seed) for seed in range(3)]
    indices = torch.stack([block_top_k(x, block, k, tail, torch.int16) for x in rows])
    return indices, whole(*indices.shape, dtype=dtype)


SPARSE = [
    (48, 16, 3, torch.float32),
    (53, 16, 3, torch.bfloat16),
    (7, 7, 7, torch.float64),
    (0, 1, 1, torch.float32),
]


def sparse_window_dots_samples() -> list[tuple[Any, ...]]:
    return [(*sparse_rows(n, b, k, d), whole(n), b, k) for n, b, k, d in SPARSE]


def sparse_window_combine_samples() -> list[tuple[Any, ...]]:
    weights = torch.tensor([0.5, 0.0, -1.25], dtype=torch.float64)
    return [(*sparse_rows(n, b, k, d), weights, n, b, k) for n, b, k, d in SPARSE]


def block_quantize_samples() -> list[tuple[Any, ...]]:
    samples: list[tuple[Any, ...]] = [
        (values((64,)), 8, 16, True),
        (values((64,)).square(), 4, 16, False),
        (values((45,)), 4, 5, True),
        (values((42,)), 4, 7, False),
        (values((90,), torch.bfloat16), 8, 64, True),
        (values((40,), torch.float64).square(), 4, 1000, False),
        (values((30,))[::2], 8, 4, True),
        (values((0,)), 4, 128, False),
        (values((1,)), 4, 1, True),
    ]
    return samples


def block_dequantize_samples() -> list[tuple[Any, ...]]:
    return [
        (*block_quantize(*args), args[0].numel(), *args[1:]) for args in block_quantize_samples()
    ]


def pack_signs_samples() -> list[tuple[Any, ...]]:
    return [
        (values((4, 16)),),
        (values((5, 13)),),
        (values((3, 9), torch.float64),),
        (values((7, 1), torch.bfloat16),),
        (values((9, 6)).t(),),
        (values((0, 3)),),
        (values((3, 0)),),
    ]


def unpack_signs_samples() -> list[tuple[Any, ...]]:
    return [(pack_signs(x), x.shape[1]) for (x,) in pack_signs_samples()]


def dct_samples() -> list[tuple[Any, ...]]:
    return [
        (values((3, 4, 7)), False, "fft", -1),
        (values((3, 8, 4)), True, "auto", 1),
        (values((5, 12)), True, "fft", 0),
        (values((2, 300)), True, "auto", 1),
        (values((4, 6), torch.bfloat16), False, "matmul", -2),
        (values((9, 5), torch.float64).t(), True, "matmul", 1),
        (values((1, 1)), False, "fft", -1),
        (values((0, 3)), False, "auto", 1),
        (values((3, 0)), True, "fft", -1),
    ]


def dct_halves_samples() -> list[tuple[Any, ...]]:
    def table(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return halves_table(n, dtype, torch.device("cpu"))

    return [
        (values((5, 12)), table(12), False, 1),
        (values((16, 3)), table(16), True, 0),
        (values((9, 20), torch.float64).t(), table(20, torch.float64), True, 0),
        (values((40, 14))[::2, ::2], table(7), False, 1),
        (values((1, 1)), table(1), True, 0),
        (values((0, 8)), table(8), False, 1),
    ]


def largest_columns_samples() -> list[tuple[Any, ...]]:
    """Small integers, whose sums are exact in any order."""
    return [
        (whole(70, 9), 4, 1, False, None),
        (whole(9, 70), 3, 0, True, whole(9).abs()),
        (whole(9, 7).t(), 2, 1, True, None),
        (whole(3, 4), 3, 0, False, torch.ones(3)),
        (whole(0, 3), 1, 1, False, None),
        (whole(3, 0), 0, 1, False, None),
    ]


def dct_before_samples() -> list[tuple[Any, ...]]:
    def twiddle(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return values((2, n // 2 + 1), dtype, seed=n)

    return [
        (values((5, 12)), twiddle(12), False),
        (values((9, 5)).t(), twiddle(9), True),
        (values((3, 7), torch.float64), twiddle(7, torch.float64), True),
        (values((40, 18))[::2, ::2], twiddle(9), False),
        (values((1, 1)), twiddle(1), True),
        (values((0, 2)), twiddle(2), False),
    ]


def random_bits_samples() -> list[tuple[Any, ...]]:
    return [(make_key(-7, 2**40 + 3), n) for n in (0, 1, 8, 1001)]


def random_bits16_samples() -> list[tuple[Any, ...]]:
    return [(make_key(7, 2), n) for n in (0, 1, 8, 1001)]


def random_bits16_of_part_samples() -> list[tuple[Any, ...]]:
    return [
        (make_key(7, 2), n, *map(torch.tensor, numbers))
        for n, numbers in ((0, (0, 1, 1)), (7, (3, 1 << 40, 1 << 40)), (12, (2**40 + 5, 3, 11)))
    ]


def random_normal_samples() -> list[tuple[Any, ...]]:
    return [(make_key(-7, 2**40 + 3), n) for n in (0, 1, 8, 1001, 70_000)]


def round_stochastic_samples() -> list[tuple[Any, ...]]:
    bits = random_bits16(make_key(7, 2), 210)
    return [
        (values((210,)), bits, False),
        (values((5, 42)), bits.reshape(5, 42), True),
        (values((0,)), bits[:0], False),
        (torch.tensor(3.39e38), bits[0], True),
    ]


def hadamard_samples() -> list[tuple[Any, ...]]:
    return [
        (values((3, 64)),),
        (values((2, 3, 8), torch.bfloat16),),
        (values((4, 5), torch.float64).t()[:4],),
        (values((1024,)),),
        (values((5, 1)),),
        (values((0, 16)),),
    ]


def whole(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small integers, whose sums are exact in any order."""
    return values(shape).clamp(-8, 8).round().to(dtype)


def coordinates_samples() -> list[tuple[Any, ...]]:
    return [
        (whole(70, 40), whole(70, 65), True),
        (whole(40, 70), whole(70, 3), False),
        (whole(9, 5, dtype=torch.float64).t(), whole(9, 4, dtype=torch.float64), False),
        (whole(6, 7, dtype=torch.bfloat16), whole(6, 2, dtype=torch.bfloat16), True),
        (whole(8, 6).t(), whole(8, 6)[::2].t(), True),
        (whole(1, 1), whole(1, 1), False),
        (whole(0, 3), whole(3, 2), False),
        (whole(0, 3), whole(0, 2), True),
    ]


def coordinates_squares_samples() -> list[tuple[Any, ...]]:
    return [args for args in coordinates_samples() if args[0].dtype == torch.float32]


def ldadam_columns_samples() -> list[tuple[Any, ...]]:
    weight = torch.tensor(2.0)
    return [
        (whole(20, 24), whole(20, 3), whole(3, 24), weight, True),
        (whole(24, 20), whole(20, 17), whole(24, 17), weight, False),
        (whole(24, 20).t(), whole(20, 3), whole(3, 24), -weight, True),
        (whole(1, 1), whole(1, 1), whole(1, 1), weight, False),
        (whole(0, 3), whole(3, 2), whole(0, 2), weight, False),
    ]


def column_adam_samples() -> list[tuple[Any, ...]]:
    """Decays whose powers are exact, and squares of whole numbers below the root."""
    old, now = torch.tensor([0, 3, 5], dtype=torch.int32), torch.tensor([0, 4, 5])
    count, rates = torch.ones((), dtype=torch.int32), (0.5, 0.75, 1e-3)
    tall = whole(20, 1).expand(20, 3).contiguous()
    wide, square = tall.mT.contiguous(), tall.square()
    return [
        (tall, whole(20, 3), square, old, now, count, *rates, 1, True),
        (wide, whole(3, 20), square.mT.contiguous(), old, now.int(), count, *rates, 0, True),
        (wide.t(), whole(20, 3), square, old.long(), now, count, *rates, 1, False),
        (tall[:0], tall[:0], tall[:0], old, now, count, *rates, 1, True),
        (tall[:, :0], tall[:, :0], tall[:, :0], old[:0], now[:0], count, *rates, 1, True),
    ]


def symmetric_product_samples() -> list[tuple[Any, ...]]:
    """Small integers, whose products have no rounding."""
    x = normal(make_key(5), (2, 37, 24), torch.float32).sign()
    c = x @ x.mT
    return [
        (x, x.mT, c, 0.5, 2.0, False),
        (x.bfloat16(), x.bfloat16().mT, None, 1.0, 1.0, False),
        (x.mT, x, None, 1.0, -1.0, True),
        (x.bfloat16(), x.bfloat16().mT.contiguous(), c.bfloat16(), 1.0, 1.0, True),
        (x.double(), x.double().mT, c.double(), 1.0, 1.0, False),
        (x[:, :0], x[:, :0].mT, None, 1.0, 1.0, False),
    ]


def newton_schulz_samples() -> list[tuple[Any, ...]]:
    """One iteration with matrices of small integers, whose products have no rounding."""
    x = normal(make_key(5), (2, 37, 24), torch.float32).sign()
    once = ([0.5, -0.25, 0.0], [1], "none", 1.0, 1e-7)
    return [
        ([x, x[:1]], *once, torch.float32, False, 1.0),
        ([x.mT], *once, torch.float32, False, 1.0),
        ([x.double()], [1.0, 0.5, 0.25] * 3, [2, 1], "add", 1.1, 1e-7, torch.float64, False, 3.0),
        ([x[:, :, :0]], [1.0, 0.5, 0.25], [1], "clamp", 1.0, 1e-7, torch.float32, False, 1.0),
    ]


def coupled_newton_samples() -> list[tuple[Any, ...]]:
    """Matrices of ones and signs, of which few products of small integers have no rounding."""
    m = normal(make_key(5), (3, 19, 19), torch.float32).sign()
    m = m.triu() + m.triu(1).mT
    scale = torch.tensor([2.0, 1.0, -0.5])
    return [
        (m, scale, 1, 2, 0.0, torch.float32, False),
        (m, scale, 2, 2, 1e-3, torch.float32, True),
        (m.double(), scale.double(), 3, 2, 0.0, torch.float64, False),
        (m, scale, 1, 2, 0.5, torch.bfloat16, False),
        (m.mT, scale, 2, 1, 0.0, torch.float16, False),
        (m[:0], scale[:0], 4, 9, 1e-6, torch.float32, False),
    ]


def denman_beavers_samples() -> list[tuple[Any, ...]]:
    m = coupled_newton_samples()[0][0]
    return [
        (m, 1, True, torch.float32),
        (m, 2, False, torch.float32),
        (m, 2, True, torch.float32),
        (m.double(), 3, True, torch.float64),
        (m[:, :5, :5], 3, False, torch.bfloat16),
        (m[:, :0, :0], 3, True, torch.float16),
    ]


def cholesky_iteration_samples() -> list[tuple[Any, ...]]:
    """Matrices whose factors have no rounding."""
    s = torch.kron(torch.eye(10), torch.tensor([[9.0, 12.0], [12.0, 41.0]]))
    both = torch.stack([s, 4.0 * s])  # (2, 20, 20)
    order = torch.arange(20).view(10, 2)
    order = torch.stack([order.flip(0), order.roll(3, 0)]).view(2, 20)
    ridge = torch.tensor([1.0, 4.0])
    less = both - torch.eye(20) * ridge[:, None, None]
    return [
        (both,),
        (both.mT,),
        (both.double(),),
        (both[:, :3, :3],),
        (both[:0],),
        (both, order),
        (less, order, ridge),
        (less.double(), None, ridge.double()),
    ]


def cholesky_turn_samples() -> list[tuple[Any, ...]]:
    """Whole numbers, divided by powers of two."""
    first = torch.kron(torch.eye(10), torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
    first, second = torch.stack([first, 2.0 * first]), torch.stack([4.0 * first, first])
    above = torch.ones(20, 20).triu(1)
    x = torch.stack([whole(7, 20), whole(20, 7).t()])
    order = torch.stack([torch.arange(20).flip(0), torch.arange(20).roll(3)])
    return [
        (x, first, second, False),
        (x.mT, first, second, True),
        (x.mT.contiguous(), first.mT.contiguous().mT, second, True),
        (x.double(), first.double(), second.double(), False),
        (x, first + 3.0 * above, second - 5.0 * above, False),
        (x, first, second, False, order),
        (x.mT, first, second, True, order),
        (x.mT.contiguous(), first, second, True, order),
        (x.mT.contiguous().mT, first, second, False, order),
        (x.mT, first - 5.0 * above, second + 3.0 * above, True),
        (x[:, :, :3], first[:, :3, :3], second[:, :3, :3], False),
        (x[:, :0], first, second, False),
        (x[:0], first[:0], second[:0], False),
    ]


def clenshaw_samples() -> list[tuple[Any, ...]]:
    m = coupled_newton_samples()[0][0]
    return [
        (m, [1.0, 2.0], torch.float32),
        (m, [1.0, 2.0, 3.0, -1.0], torch.float32),
        (m.double(), [0.5, 0.25, 2.0], torch.float64),
        (m.mT, [1.0, 2.0, 3.0], torch.bfloat16),
        (m[:0], [1.0, 2.0, 3.0], torch.float32),
    ]


def block_fisher_samples() -> list[tuple[Any, ...]]:
    """Systems whose factors are exact: orthogonal gradients, and one with a root of its own."""
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    square = torch.kron(pair, pair)  # 4 x 4, orthogonal but for a factor of two
    skew = torch.tensor([[1.0, 2.0], [1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    return [
        (square.repeat(1, 9), 4, 3.0),
        (square[:2].repeat(1, 9), 4, 6.0),
        (skew.repeat(1, 3), 2, 1 / 3),
        (square.double().repeat(1, 5)[:, :18], 4, 3.0),
        (square[:2].repeat(1, 3).repeat_interleave(2, 1)[:, ::2], 4, 6.0),
        (square, 1000, 3.0),
        (square[:, :0], 4, 3.0),
    ]


def block_fisher_times_samples() -> list[tuple[Any, ...]]:
    return [
        (g, block_fisher(g, block, damping)[0], whole(g.shape[1]).double(), block, damping)
        for g, block, damping in block_fisher_samples()
    ]


SAMPLES: dict[str, Samples] = {
    "block_fisher": block_fisher_samples,
    "block_fisher_times": block_fisher_times_samples,
    "random_bits": random_bits_samples,
    "random_bits16": random_bits16_samples,
    "random_bits16_of_part": random_bits16_of_part_samples,
    "random_normal": random_normal_samples,
    "round_stochastic": round_stochastic_samples,
    "dct": dct_samples,
    "dct_before": dct_before_samples,
    "dct_halves": dct_halves_samples,
    "largest_columns": largest_columns_samples,
    "hadamard": hadamard_samples,
    "coordinates": coordinates_samples,
    "coordinates_squares": coordinates_squares_samples,
    "ldadam_columns": ldadam_columns_samples,
    "column_adam": column_adam_samples,
    "symmetric_product": symmetric_product_samples,
    "newton_schulz": newton_schulz_samples,
    "coupled_newton": coupled_newton_samples,
    "denman_beavers": denman_beavers_samples,
    "clenshaw": clenshaw_samples,
    "cholesky_iteration": cholesky_iteration_samples,
    "cholesky_turn": cholesky_turn_samples,
    "block_quantize": block_quantize_samples,
    "block_dequantize": block_dequantize_samples,
    "pack_signs": pack_signs_samples,
    "unpack_signs": unpack_signs_samples,
    "block_top_k": block_top_k_samples,
    "window_moments": window_moments_samples,
    "window_dots": window_dots_samples,
    "sparse_window_dots": sparse_window_dots_samples,
    "sparse_window_combine": sparse_window_combine_samples,
    "quantize_symmetric": quantize_symmetric_samples,
    "dequantize_symmetric": dequantize_symmetric_samples,
    "quantize_affine": quantize_samples,
    "dequantize_affine": dequantize_samples,
}

CASES = [(name, i) for name, samples in SAMPLES.items() for i in range(len(samples()))]


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


# Operators with matrix products, whose rounding depends on the number of rows.
ROUND = {"dct", "dct_halves"}


def assert_same_batched(name: str, actual: Any, expected: Any) -> None:
    """Assert that a batch gives what its examples give, up to rounding where that is all."""
    if name not in ROUND:
        return assert_same_bits(actual, expected)
    for a, e in zip(as_tuple(actual), as_tuple(expected), strict=True):
        torch.testing.assert_close(a, e)


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Assert equal shapes, dtypes and numbers (a NaN equals a NaN)."""
    for a, e in zip(as_tuple(actual), as_tuple(expected), strict=True):
        torch.testing.assert_close(a.cpu(), e.cpu(), rtol=0, atol=0, equal_nan=True)
