"""The operator ``gradtx::dct_halves``: the orthonormal DCT-II, or the DCT-III, by halves.

    dct_halves(Tensor x, Tensor table, bool inverse, int dim) -> Tensor

Of a matrix, float32 or float64, along dimension ``dim``. Sums and differences of the first half
and the second one reversed are a DCT-II and a DCT-IV of half the length, the even and the odd
coefficients; rotated by angles (2j + 1) pi / (4n), the halves of a DCT-IV are two DCT-II. That ends
at an odd length or at most 4, the base, with products of a matrix. Every factor is orthogonal, so
rounding errors do not grow (Plonka and Tasche 2005). ``table`` holds the matrices of the base and
the angles' cosines and sines, see ``halves_table``.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from gradtx.ops.registry import operator, require_together

__all__ = ["base_of", "dct_halves", "halves_table"]

_HALF = math.sqrt(0.5)
_LARGEST = 1024  # base


def base_of(n: int) -> int:
    """The length at which halving ends.

    >>> from gradtx.ops.dct_halves import base_of
    >>> base_of(160), base_of(1024), base_of(7)
    (5, 4, 7)
    """
    while n > 4 and n % 2 == 0:
        n //= 2
    return n


@functools.lru_cache(maxsize=64)
def halves_table(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Constants of the transforms of n numbers, 1-d, computed in float64. Do not write to it.

    The base's DCT-II and DCT-IV row by row, then cosines and sines for the DCT-IV of twice the
    base, of four times the base and so on, up to n / 2.
    """
    base = base_of(n)
    k = torch.arange(base, dtype=torch.float64, device="cpu")
    size = torch.full_like(k, 2 / base).sqrt()
    fourth = size[:, None] * torch.cos(math.pi / (4 * base) * torch.outer(2 * k + 1, 2 * k + 1))
    size[0] = math.sqrt(1 / base)
    second = size[:, None] * torch.cos(math.pi / (2 * base) * torch.outer(k, 2 * k + 1))
    parts = [second.reshape(-1), fourth.reshape(-1)]
    m = 2 * base
    while m < n:
        angle = torch.arange(1, m, 2, dtype=torch.float64, device="cpu") * (math.pi / (4 * m))
        parts += [angle.cos(), angle.sin()]
        m *= 2
    return torch.cat(parts).to(dtype).to(device)


def _second(x: Tensor, table: Tensor, base: int) -> Tensor:
    """DCT-II of rows."""
    n = x.shape[1]
    if n == base:
        return _product(x, table[: n * n].view(n, n))
    low, high = _butterfly(x[:, : n // 2], x[:, n // 2 :].flip(1))
    halves = _second(low, table, base), _fourth(high, table, base)
    return torch.stack(halves, 2).reshape(x.shape)


def _third(x: Tensor, table: Tensor, base: int) -> Tensor:
    """DCT-III of rows, the inverse."""
    n = x.shape[1]
    if n == base:
        return _product(x, table[: n * n].view(n, n).mT)
    low, high = _butterfly(_third(x[:, ::2], table, base), _fourth(x[:, 1::2], table, base))
    return torch.cat([low, high.flip(1)], 1)


def _fourth(x: Tensor, table: Tensor, base: int) -> Tensor:
    """DCT-IV of rows, its own inverse."""
    n, start = x.shape[1], 2 * base * base
    if n == base:
        return _product(x, table[n * n : start].view(n, n))
    cos, sin = table[start + n - 2 * base :][:n].view(2, n // 2)
    a, b = x[:, : n // 2], x[:, n // 2 :].flip(1)
    turned = b * cos - a * sin
    signs = torch.ones_like(cos)
    signs[1::2] = -1
    even, odd = _second(a * cos + b * sin, table, base), _second(turned * signs, table, base)
    up, down = _butterfly(even[:, 1:], odd[:, 1:].flip(1))
    inside = torch.stack([down, up], 2).reshape(len(x), n - 2)
    return torch.cat([even[:, :1], inside, -odd[:, :1]], 1)


def _product(x: Tensor, m: Tensor) -> Tensor:
    """``x m^T``, summed up in the order of the columns, as the kernel does."""
    out = torch.zeros_like(x)
    for j in range(x.shape[1]):
        out = out + x[:, j : j + 1] * m[:, j]
    return out


def _butterfly(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    a, b = a * _HALF, b * _HALF
    return a + b, a - b


def _check(x: Tensor, table: Tensor, dim: int) -> None:
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dct_halves: x must be float32 or float64, got {x.dtype}")
    if x.ndim != 2 or dim not in (0, 1) or not x.shape[dim]:
        raise ValueError(
            "dct_halves: x must be a matrix, and dim one of its dimensions that is not empty, got "
            f"shape {tuple(x.shape)} and {dim}"
        )
    n, base = x.shape[dim], base_of(x.shape[dim])
    if base > _LARGEST:
        raise ValueError(f"dct_halves: the odd factor of {n} is above {_LARGEST}")
    size = 2 * base * base + max(n - 2 * base, 0)
    if table.shape != (size,) or table.dtype != x.dtype:
        raise ValueError(
            f"dct_halves: table must be halves_table({n}) in {x.dtype}, got shape "
            f"{tuple(table.shape)} and {table.dtype}"
        )
    require_together("dct_halves", x, table)


def _fake(x: Tensor, table: Tensor, inverse: bool, dim: int) -> Tensor:
    _check(x, table, dim)
    return x.new_empty(x.shape)


@operator("dct_halves(Tensor x, Tensor table, bool inverse, int dim) -> Tensor", fake=_fake)
def dct_halves(x: Tensor, table: Tensor, inverse: bool, dim: int) -> Tensor:
    """Transform along a dimension; see the module's text."""
    _check(x, table, dim)
    rows = x if dim == 1 else x.mT  # (count, n)
    out = (_third if inverse else _second)(rows, table, base_of(rows.shape[1]))
    return (out if dim == 1 else out.mT).contiguous()
