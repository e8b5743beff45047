"""Operators of random numbers: ``gradtx::random_bits``, ``random_normal`` and their like.

They compute what ``gradtx.core.random`` and ``gradtx.core.rounding`` define, as one operator each,
so that a compiled step can know them and kernels can be written for them. All are constants for
automatic differentiation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradtx.core import random, rounding
from gradtx.ops.registry import operator, require_together

__all__ = [
    "random_bits",
    "random_bits16",
    "random_bits16_of_part",
    "random_normal",
    "round_stochastic",
]


def _check(key: Tensor, numel: int) -> None:
    random.check_key("random_bits", key)
    if numel < 0:
        raise ValueError(f"random_bits: numel must be >= 0, got {numel}")


def _fake_words(key: Tensor, numel: int) -> Tensor:
    _check(key, numel)
    return key.new_empty(numel)


def _fake_bits(key: Tensor, numel: int) -> Tensor:
    _check(key, numel)
    return key.new_empty(numel, dtype=torch.int32)


def _fake_part(key: Tensor, numel: int, first: Tensor, length: Tensor, distance: Tensor) -> Tensor:
    require_together("random_bits16_of_part", key, first, length, distance)
    return _fake_bits(key, numel)


def _fake_normal(key: Tensor, numel: int) -> Tensor:
    _check(key, numel)
    return key.new_empty(numel, dtype=torch.float32)


def _fake_round(x: Tensor, random_bits: Tensor, clamp: bool) -> Tensor:
    require_together("round_stochastic", x, random_bits)
    return torch.empty_like(x, dtype=torch.bfloat16)


def _vmap_round(
    info: Any, in_dims: tuple[Any, ...], x: Tensor, random_bits: Tensor, clamp: bool
) -> tuple[Tensor, int]:
    x, random_bits = (
        t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip((x, random_bits), in_dims[:2], strict=True)
    )
    return round_stochastic(x, random_bits, clamp), 0


@operator("random_bits(Tensor key, SymInt numel) -> Tensor", fake=_fake_words)
def random_bits(key: Tensor, numel: int) -> Tensor:
    """Draw int64 ``(numel,)`` holding uint32 values from an int64 key ``(2,)``."""
    _check(key, numel)
    return random.random_bits(key, numel)


@operator("random_bits16(Tensor key, SymInt numel) -> Tensor", fake=_fake_bits)
def random_bits16(key: Tensor, numel: int) -> Tensor:
    """Draw int32 ``(numel,)`` holding uint16 values from an int64 key ``(2,)``."""
    _check(key, numel)
    return random.random_bits16(key, numel)


@operator(
    "random_bits16_of_part(Tensor key, SymInt numel, Tensor first, Tensor length, Tensor distance)"
    " -> Tensor",
    fake=_fake_part,
)
def random_bits16_of_part(
    key: Tensor, numel: int, first: Tensor, length: Tensor, distance: Tensor
) -> Tensor:
    """Draw int32 ``(numel,)`` holding uint16 values for elements with some numbers.

    ``first``, ``length`` and ``distance`` are int64 of shape ``()``: rows of so many elements, so
    far apart. A length below one counts as one.
    """
    _fake_part(key, numel, first, length, distance)
    numbers = random.Numbers(first, length.clamp(min=1), distance)
    return random.random_bits16(key, numel, numbers)


@operator("random_normal(Tensor key, SymInt numel) -> Tensor", fake=_fake_normal)
def random_normal(key: Tensor, numel: int) -> Tensor:
    """Draw float32 ``(numel,)``, standard normal, from an int64 key ``(2,)``."""
    _check(key, numel)
    return random.normal_of(random_bits(key, numel + numel % 2), (numel,), torch.float32)


@operator(
    "round_stochastic(Tensor x, Tensor random_bits, bool clamp) -> Tensor",
    fake=_fake_round,
    vmap=_vmap_round,
)
def round_stochastic(x: Tensor, random_bits: Tensor, clamp: bool) -> Tensor:
    """Round float32 to bfloat16 with integers of x's shape whose lower 16 bits are uniform."""
    return rounding.round_stochastically(x, random_bits, clamp)
