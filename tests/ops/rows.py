"""One row an operator: sample arguments that the whole battery runs on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradtx.core.random import make_key, normal
from gradtx.ops import quantize_affine

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


SAMPLES: dict[str, Samples] = {
    "quantize_affine": quantize_samples,
    "dequantize_affine": dequantize_samples,
}

CASES = [(name, i) for name, samples in SAMPLES.items() for i in range(len(samples()))]


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Assert equal shapes, dtypes and numbers (a NaN equals a NaN)."""
    for a, e in zip(as_tuple(actual), as_tuple(expected), strict=True):
        torch.testing.assert_close(a.cpu(), e.cpu(), rtol=0, atol=0, equal_nan=True)
