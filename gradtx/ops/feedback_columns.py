"""Compression to columns of cosine components with error feedback, in place, by two functions.

What ``gx.compressors.top_columns`` and ``gx.codecs.affine_rows`` do to one matrix between two
steps, for executors: the error is overwritten, and nothing else is kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gradtx.ops.add_product import add_product_
from gradtx.ops.dct import dct_vectors
from gradtx.ops.dct_halves import halves_table
from gradtx.ops.tables import Entry

__all__ = ["RowCodes", "columns_with_feedback_", "has_columns_with_feedback"]

_choose, _encode = Entry("gx_choose_columns"), Entry("gx_encode_rows")


class RowCodes(NamedTuple):
    """A matrix as ``ops.quantize_affine`` encodes it, a row a block, each row in whole bytes.

    Attributes:
        codes: uint8.
        lo: float32, as many as rows.
        hi: float32, as many as rows.
        bits: 4 or 8.
    """

    codes: Tensor
    lo: Tensor
    hi: Tensor
    bits: int


def has_columns_with_feedback() -> bool:
    """Whether the library has the functions."""
    return _choose.is_there and _encode.is_there


def columns_with_feedback_(
    x: Tensor, error: RowCodes, k: int, dim: int, inverse: bool, squares: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest columns of a DCT of ``x + error``, or rows; ``error`` is what they leave out.

    Args:
        x: a matrix that ``is_plain``, contiguous, not empty.
        error: overwritten; of memory that nothing else here shares, on the CPU and contiguous.
        k: how many.
        dim: which dimension is transformed, of a length for ``dct_halves``.
        inverse: whether by the DCT-III.
        squares: whether root sums of squares are compared, and not sums of absolute values.

    Returns:
        The columns (or rows) of the transform, the vectors of the basis (n, k) that they are the
        coordinates of, and which ones they are, ascending.
    """
    rows, columns = x.shape
    n = x.shape[dim]
    total, spectrum = torch.empty_like(x), torch.empty_like(x)
    chosen = torch.empty(k, dtype=torch.int64, device=x.device)
    factor = x.new_empty((rows, k) if dim == 1 else (k, columns))
    codes = (error.codes, error.lo, error.hi, error.bits, rows, columns)
    table = halves_table(n, x.dtype, x.device)
    _choose(x, *codes, table, inverse, dim, k, squares, total, spectrum, chosen, factor)
    vectors = dct_vectors(n, chosen, x.dtype, inverse)
    factors = (factor, vectors.mT) if dim == 1 else (vectors, factor)
    rest = add_product_(spectrum, *factors, 0.0, -1.0, total)
    _encode(rest, *codes)
    return factor, vectors, chosen
