"""Batches of equal matrices from the whole tree, and products with one side of a block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...core import tree
from ...core.checks import can_read
from ...core.tree import PyTree
from ...ops.symmetric_product import product

# Elements of a block from which on a product on the CPU takes so long that no batch is worth a
# copy.
_LARGE = 1 << 14


def together(fn: Callable[..., PyTree], *columns: Sequence[PyTree], large: int = 1) -> list[PyTree]:
    """``fn`` of every entry's trees of stacks, all entries in one batch.

    Args:
        fn: function of as many trees as there are columns; what it gives is batched alike.
        columns: per argument, one tree an entry, of one structure, whose tensors have the same
            shapes but for the first dimension.
        large: how many entries are a batch where blocks are so large that it does not pay for
            products.

    Returns:
        What ``fn`` gives, one an entry.

    >>> import torch
    >>> from gradtx.precondition.kronecker.stacks import together
    >>> xs = [torch.ones(2, 3), torch.zeros(1, 3)]
    >>> [x.shape[0] for x in together(lambda x: 2 * x, xs)]
    [2, 1]
    """
    count = len(columns[0])
    size = large if count > 1 and _is_large(columns[0][0]) else count
    if size == 1:
        return [fn(*entry) for entry in zip(*columns, strict=True)]
    out: list[PyTree] = []
    for begin in range(0, len(columns[0]), size):
        out += _joined(fn, [column[begin : begin + size] for column in columns])
    return out


def _joined(fn: Callable[..., PyTree], columns: Sequence[Sequence[PyTree]]) -> list[PyTree]:
    sizes = [_length(x) for x in columns[0]]
    leaves, spec = tree.flatten(fn(*(tree.map(_cat, *column) for column in columns)))
    if not leaves:
        return [spec.unflatten(leaves)] * len(sizes)
    parts = zip(*(x.split(sizes) for x in leaves), strict=True)
    return [spec.unflatten(part) for part in parts]


def _cat(*xs: Tensor) -> Tensor:
    return torch.cat(xs)


def _length(of: PyTree) -> int:
    leaves = tree.leaves(of)
    return leaves[0].shape[0] if leaves else 1


def _is_large(of: PyTree) -> bool:
    leaves = tree.leaves(of)
    return bool(leaves) and leaves[0].device.type == "cpu" and leaves[0][0].numel() >= _LARGE


def contract(x: Tensor, matrix: Tensor, side: int, transpose: bool = False) -> Tensor:
    """``sum_a x[.., a, ..] matrix[a, b]`` on one side of blocks, for every block its own matrix.

    Args:
        x: (n, d_1, .. d_o).
        matrix: (n, d_side, k); with ``transpose`` (n, k, d_side).
        side: in 0 .. o - 1.
        transpose: contract with the second index of the matrix.
    """
    if transpose:
        matrix = matrix.mT
    if side == x.ndim - 2 and x.ndim <= 3:
        y = x.unsqueeze(1) if x.ndim == 2 else x
        return product(y, matrix).reshape(*x.shape[:-1], matrix.shape[-1])
    if side == 0:
        y = product(matrix.mT, x.reshape(x.shape[0], x.shape[1], -1))
        return y.reshape(x.shape[0], matrix.shape[-1], *x.shape[2:])
    moved = x.movedim(side + 1, -1)
    y = product(moved.reshape(x.shape[0], -1, moved.shape[-1]), matrix)
    return y.reshape(*moved.shape[:-1], matrix.shape[-1]).movedim(-1, side + 1)


def unfolded(x: Tensor, side: int) -> Tensor:
    """Blocks (n, d_1, .. d_o) as matrices (n, d_side, all others)."""
    y = x if side == 0 else x.movedim(side + 1, 1)
    return y.reshape(x.shape[0], x.shape[side + 1], -1)


def along(vector: Tensor, side: int, order: int) -> Tensor:
    """Vectors (n, d_side), shaped to multiply blocks (n, d_1, .. d_o) along one side."""
    return vector.reshape(vector.shape[0], *(-1 if k == side else 1 for k in range(order)))


def readable(flags: Sequence[Tensor]) -> list[Tensor | bool]:
    """Flags as truth values where they can be read, all of a device in one go."""
    if not flags or len({f.device for f in flags}) != 1 or not all(map(can_read, flags)):
        return list(flags)
    known: list[Tensor | bool] = torch.stack(list(flags)).tolist()
    return known
