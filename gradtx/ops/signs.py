"""The operators ``gradtx::pack_signs`` and ``gradtx::unpack_signs``: one bit an element.

The bit of an element is 1 where it is strictly positive, 0 where it is negative, zero or NaN.
Rows are packed by themselves: column j goes to byte ``j // 8``, bit ``j % 8`` (lowest bit first),
and the unused bits of a row's last byte are 0. Both are constants for automatic differentiation.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gradtx.ops.registry import operator

__all__ = ["pack_signs", "unpack_signs"]

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_pack(x: Tensor) -> None:
    """Raise ValueError unless `x` is a floating matrix."""
    if x.dtype not in _DTYPES:
        raise ValueError(f"pack_signs: x must be one of {_DTYPES}, got {x.dtype}")
    if x.ndim != 2:
        raise ValueError(f"pack_signs: x must be a matrix, got shape {tuple(x.shape)}")


def check_unpack(bits: Tensor, columns: int) -> None:
    """Raise ValueError unless `bits` holds `columns` signs a row."""
    if columns < 0:
        raise ValueError(f"unpack_signs: columns must be >= 0, got {columns}")
    if bits.dtype != torch.uint8 or bits.ndim != 2 or bits.shape[1] != (columns + 7) // 8:
        raise ValueError(
            f"unpack_signs: bits must be uint8 of shape (rows, {(columns + 7) // 8}) for "
            f"{columns} columns, got {bits.dtype} of shape {tuple(bits.shape)}"
        )


def _fake_pack(x: Tensor) -> Tensor:
    check_pack(x)
    return x.new_empty((x.shape[0], (x.shape[1] + 7) // 8), dtype=torch.uint8)


def _fake_unpack(bits: Tensor, columns: int) -> Tensor:
    check_unpack(bits, columns)
    return bits.new_empty((bits.shape[0], columns), dtype=torch.bool)


def _vmap_pack(info: Any, in_dims: tuple[Any, ...], x: Tensor) -> tuple[Tensor, int]:
    x = x.movedim(in_dims[0], 0)
    return pack_signs(x.flatten(0, 1)).unflatten(0, x.shape[:2]), 0


def _vmap_unpack(
    info: Any, in_dims: tuple[Any, ...], bits: Tensor, columns: int
) -> tuple[Tensor, int]:
    bits = bits.movedim(in_dims[0], 0)
    return unpack_signs(bits.flatten(0, 1), columns).unflatten(0, bits.shape[:2]), 0


def _shifts(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)


@operator("pack_signs(Tensor x) -> Tensor", fake=_fake_pack, vmap=_vmap_pack)
def pack_signs(x: Tensor) -> Tensor:
    """Pack ``x > 0`` of a matrix (a, b) into uint8 (a, ceil(b / 8))."""
    check_pack(x)
    rows, columns = x.shape
    bits = F.pad((x > 0).to(torch.uint8), (0, -columns % 8))
    groups = bits.reshape(rows, (columns + 7) // 8, 8) << _shifts(x.device)
    return groups.sum(-1, dtype=torch.uint8)


@operator(
    "unpack_signs(Tensor bits, SymInt columns) -> Tensor", fake=_fake_unpack, vmap=_vmap_unpack
)
def unpack_signs(bits: Tensor, columns: int) -> Tensor:
    """Unpack uint8 (a, ceil(columns / 8)) into bool (a, columns)."""
    check_unpack(bits, columns)
    flags = (bits[:, :, None] >> _shifts(bits.device)) & 1
    return flags.reshape(bits.shape[0], 8 * bits.shape[1])[:, :columns].to(torch.bool)
