"""Masks as one bit an element: a leaf as a matrix, every row in bytes of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops import pack_signs, unpack_signs


def as_matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows along the first dimension, columns along all others; a vector is one row.

    >>> from gradtx.sparsity.bits import as_matrix
    >>> as_matrix((8, 3, 2)), as_matrix((5,)), as_matrix((5, 1)), as_matrix(())
    ((8, 6), (1, 5), (1, 5), (1, 1))
    """
    columns = math.prod(shape[1:])
    return (1, math.prod(shape)) if columns == 1 else (shape[0], columns)


def pack(mask: Tensor) -> Tensor:
    """A bool mask as uint8 (rows, ceil(columns / 8)), the first column in the lowest bit.

    >>> import torch
    >>> from gradtx.sparsity.bits import pack, unpack
    >>> bits = pack(torch.tensor([[True, False, True], [False, True, False]]))
    >>> bits
    tensor([[5],
            [2]], dtype=torch.uint8)
    >>> unpack(bits, torch.zeros(2, 3))
    tensor([[ True, False,  True],
            [False,  True, False]])
    """
    return pack_signs(mask.reshape(as_matrix(mask.shape)).to(torch.float32))


def unpack(bits: Tensor, like: Tensor) -> Tensor:
    """The bool mask, shaped like a parameter."""
    return unpack_signs(bits, as_matrix(like.shape)[1]).reshape(like.shape)


def all_ones(p: Tensor) -> Tensor:
    """The bits of a mask that keeps everything."""
    rows, columns = as_matrix(p.shape)
    bits = torch.full((rows, (columns + 7) // 8), 255, dtype=torch.uint8, device=p.device)
    if columns % 8:
        bits[:, -1] = 2 ** (columns % 8) - 1
    return bits
