"""Matrices in an orthonormal basis of one of their dimensions that never has to be stored."""

from __future__ import annotations

import torch
from torch import Tensor

from gradtx.ops.dct import dct, dct_vectors, idct
from gradtx.ops.hadamard import hadamard

__all__ = [
    "BASES",
    "SIDES",
    "axis_of",
    "basis_norms",
    "basis_vectors",
    "is_inverse",
    "rotate",
]

BASES = ("dct2", "dct3", "released_matmul", "hadamard")
SIDES = ("std", "std_left", "left", "right")
TRANSFORMS = ("auto", "fft", "matmul")


def axis_of(side: str, rows: int, columns: int) -> int:
    """The dimension of a matrix that a side names: 0 or 1.

    "std" is the smaller dimension (a square matrix: 1), "std_left" too (a square matrix:
    0), "reverse_std" and "larger" the larger one (a square matrix: 0); "left" is 0, "right" is 1.

    >>> from gradtx.ops.basis import axis_of
    >>> [axis_of(side, 4, 4) for side in ("std", "std_left", "reverse_std")]
    [1, 0, 0]
    """
    if side in ("left", "right"):
        return int(side == "right")
    if side == "std":
        return int(rows >= columns)
    return int(rows > columns) if side == "std_left" else int(rows < columns)


def rotate(
    x: Tensor, basis: str, side: str = "std", transform: str = "auto", inverse: bool = False
) -> Tensor:
    """A matrix in another basis: ``x Q`` for side "right", ``Q^T x`` for "left"; or back.

    The columns of Q are cosines of rising frequency for "dct2" and its transpose's for "dct3";
    "released_matmul" is "dct3" on the right and "dct2" on the left; "hadamard" takes the natural
    order.

    Args:
        x: (rows, columns).
        basis: "dct2", "dct3", "released_matmul" or "hadamard".
        side: see ``axis_of``.
        transform: how a DCT is computed, see ``dct``.
        inverse: ``x Q^T`` or ``Q x`` instead.

    Raises:
        ValueError: "hadamard" for a dimension that is no power of two.

    >>> import torch, gradtx as gx
    >>> x = torch.eye(2)
    >>> gx.ops.rotate(x, "hadamard")
    tensor([[ 0.7071,  0.7071],
            [ 0.7071, -0.7071]])
    """
    axis = axis_of(side, *x.shape)
    if basis == "hadamard":
        return hadamard(x) if axis == 1 else hadamard(x.mT).mT
    return (idct if is_inverse(basis, axis) != inverse else dct)(x, transform, axis)


def is_inverse(basis: str, axis: int) -> bool:
    """Whether a cosine basis is that of the inverse transform."""
    return basis == "dct3" or (basis == "released_matmul" and axis == 1)


def basis_vectors(basis: str, axis: int, n: int, chosen: Tensor, dtype: torch.dtype) -> Tensor:
    """Some columns of Q, (n, k), for a dimension of n numbers.

    Args:
        basis: see ``rotate``.
        axis: the dimension of matrices that Q is of.
        n: its size.
        chosen: int64 (k,), which columns.
        dtype: theirs.

    >>> import torch
    >>> from gradtx.ops.basis import basis_vectors
    >>> basis_vectors("dct2", 1, 2, torch.tensor([1]), torch.float32)
    tensor([[ 0.7071],
            [-0.7071]])
    """
    if basis != "hadamard":
        return dct_vectors(n, chosen, dtype, inverse=is_inverse(basis, axis))
    every = torch.arange(n, dtype=chosen.dtype, device=chosen.device)
    return hadamard((chosen[:, None] == every).to(dtype)).mT  # symmetric


def basis_norms(x: Tensor, basis: str, axis: int, p: int) -> Tensor:
    """The p-norms of the columns of Q, for a dimension of the matrix ``x``."""
    identity = torch.eye(x.shape[axis], dtype=x.dtype, device=x.device)
    q = rotate(identity, basis, "right" if axis == 1 else "left")
    return torch.linalg.vector_norm(q, ord=p, dim=1 - axis)
