"""The operator ``gradtx::block_top_k``: positions of the largest magnitudes of every block.

    block_top_k(Tensor x, SymInt block_size, SymInt k, SymInt k_tail, ScalarType dtype) -> Tensor

A flat tensor of n elements is cut into blocks of `block_size` elements, the last one shorter where
`block_size` does not divide n. Every full block keeps its `k` largest magnitudes and the shorter
one its `k_tail` largest. Of equal magnitudes the one with the lower index is kept; a NaN counts as
larger than infinity. The result, integers of `dtype`, holds positions inside the block, block after
block and ascending inside each: entry c belongs to block ``c // k``. It is a constant for automatic
differentiation, so values are to be gathered from x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradtx.ops.registry import map_examples, operator

__all__ = ["block_starts", "block_top_k", "column_starts"]

_INDEX_DTYPES = (torch.int16, torch.int32, torch.int64)
# Magnitudes of floating numbers are in the order of their bits.
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _check(x: Tensor, block_size: int, k: int, k_tail: int, dtype: torch.dtype) -> None:
    name = "block_top_k"
    if not x.is_floating_point():
        raise ValueError(f"{name}: x must have a floating dtype, got {x.dtype}")
    if x.ndim != 1:
        raise ValueError(f"{name}: x must be flat, got shape {tuple(x.shape)}")
    if dtype not in _INDEX_DTYPES:
        raise ValueError(f"{name}: dtype must be one of {_INDEX_DTYPES}, got {dtype}")
    if not 1 <= block_size <= torch.iinfo(dtype).max:
        raise ValueError(f"{name}: block_size must fit in {dtype} and be >= 1, got {block_size}")
    if not 1 <= k <= block_size:
        raise ValueError(f"{name}: k must be in [1, {block_size}], got {k}")
    tail = x.numel() % block_size
    if not (1 if tail else 0) <= k_tail <= min(tail, k):
        raise ValueError(
            f"{name}: k_tail must be in [{1 if tail else 0}, {min(tail, k)}] for a last block of "
            f"{tail} elements, got {k_tail}"
        )


def _fake(x: Tensor, block_size: int, k: int, k_tail: int, dtype: torch.dtype) -> Tensor:
    _check(x, block_size, k, k_tail, dtype)
    return x.new_empty(x.numel() // block_size * k + k_tail, dtype=dtype)


def _vmap(
    info: Any,
    in_dims: tuple[Any, ...],
    x: Tensor,
    block_size: int,
    k: int,
    k_tail: int,
    dtype: torch.dtype,
) -> tuple[Any, Any]:
    x = x.movedim(in_dims[0], 0)
    if k_tail or not x.numel():
        dims = (0, None, None, None, None)
        return map_examples(block_top_k, info, dims, x, block_size, k, k_tail, dtype)
    return block_top_k(x.reshape(-1), block_size, k, 0, dtype).reshape(info.batch_size, -1), 0


@operator(
    "block_top_k(Tensor x, SymInt block_size, SymInt k, SymInt k_tail, ScalarType dtype) -> Tensor",
    fake=_fake,
    vmap=_vmap,
)
def block_top_k(x: Tensor, block_size: int, k: int, k_tail: int, dtype: torch.dtype) -> Tensor:
    """Positions of the largest magnitudes of every block; see the module's text."""
    _check(x, block_size, k, k_tail, dtype)
    full = x.numel() - x.numel() % block_size
    parts = [_positions(x[:full].reshape(-1, block_size), k)] if full else []
    if k_tail:
        parts.append(_positions(x[full:][None], k_tail))
    return torch.cat(parts).to(dtype) if parts else x.new_empty(0, dtype=dtype)


def block_starts(kept: int, k: int, block_size: int, device: torch.device) -> Tensor:
    """Where the block of every kept entry begins, int64 (kept,): ``c // k * block_size``.

    >>> import torch
    >>> from gradtx.ops.block_top_k import block_starts
    >>> block_starts(5, 2, 10, torch.device("cpu")).tolist()
    [0, 0, 10, 10, 20]
    """
    # Not by an integer division of positions: where one is in the graph, Inductor (torch 2.13, on
    # CPUs) cuts the loop into pieces of k and leaves out a shorter last one.
    entries = torch.arange(kept, dtype=torch.float64, device=device)
    return ((entries + 0.5) / k).floor().long() * block_size


def column_starts(indices: Tensor, block_size: int, k: int) -> Tensor:
    """Where the blocks of the columns begin; no product is larger than the vector is.

    Args:
        indices: (rows, columns), places within blocks.
        block_size: elements of a block.
        k: columns a block.
    """
    columns = indices.shape[1]
    if columns <= k:
        return indices.new_zeros(columns, dtype=torch.int64)
    return block_starts(columns, k, block_size, indices.device)


def _positions(rows: Tensor, k: int) -> Tensor:
    """Ascending positions of the k largest magnitudes of every row, one row after the other."""
    key = rows.abs().contiguous().view(_BITS[rows.element_size()])
    if k == rows.shape[1]:
        return torch.arange(k, dtype=torch.int64, device=rows.device).repeat(rows.shape[0])
    if not rows.numel():
        return torch.empty(0, dtype=torch.int64, device=rows.device)
    smallest_kept = key.topk(k, dim=1, sorted=True).values[:, -1:]
    above, equal = key > smallest_kept, key == smallest_kept
    room = k - above.sum(1, keepdim=True)
    keep = above | (equal & (equal.cumsum(1) <= room))
    return keep.nonzero()[:, 1]
