"""Rounding float32 to bfloat16 at random, so that the mean of many roundings is exact."""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST_FINITE = 0x7F7F  # upper half of a float32: the largest finite bfloat16


def round_stochastically(x: Tensor, random_bits: Tensor, clamp: bool = False) -> Tensor:
    """Round float32 values to bfloat16, up or down at random in proportion to the distance.

    The random integer is added to the bits of x and the lower half is cut off: a carry into the
    upper half moves away from zero. Signs stay, and so does what bfloat16 can hold, zeros, NaN and
    infinities included. The derivative is zero.

    Args:
        x: float32 tensor.
        random_bits: integer tensor of x's shape whose lower 16 bits are uniform.
        clamp: keep finite values finite; a carry beyond the largest bfloat16 gives infinity
            otherwise.

    Raises:
        TypeError: ``x`` is not float32, or ``random_bits`` does not hold integers.
        ValueError: the shapes differ.

    Source: arXiv 2010.06192.

    >>> import torch, gradtx as gx
    >>> x = torch.full((4,), 1 + 2.0**-9)  # a quarter of the way from 1 to 1.0078
    >>> gx.round_stochastically(x, torch.tensor([0, 20000, 40000, 60000]))
    tensor([1.0000, 1.0000, 1.0000, 1.0078], dtype=torch.bfloat16)
    """
    if x.dtype != torch.float32:
        raise TypeError(f"round_stochastically: x must be float32, got {x.dtype}")
    kind = random_bits.dtype
    if kind.is_floating_point or kind.is_complex or kind == torch.bool:
        raise TypeError(f"round_stochastically: random_bits must be integers, got {kind}")
    if random_bits.shape != x.shape:
        raise ValueError(
            f"round_stochastically: random_bits has shape {tuple(random_bits.shape)}, "
            f"x has {tuple(x.shape)}"
        )
    bits = x.detach().view(torch.int32)
    # By halves: the sum of all 32 bits could leave the range of int32.
    carry = ((bits & 0xFFFF) + (random_bits.to(torch.int32) & 0xFFFF)) >> 16
    upper = bits >> 16
    if clamp:
        carry = torch.where((upper & 0x7FFF) == _LARGEST_FINITE, 0, carry)
    rounded = (upper + carry).to(torch.int16).view(torch.bfloat16)
    return torch.where(torch.isfinite(x), rounded, x.detach().to(torch.bfloat16))
