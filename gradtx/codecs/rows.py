"""Affine quantisation with one range a row, and codecs that work in another basis."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..core.fields import static
from ..core.tree import accumulator_dtype
from ..core.watch import is_watched
from ..ops.affine import dequantize_affine, quantize_affine
from ..ops.basis import BASES, SIDES, TRANSFORMS, rotate
from ..ops.feedback_columns import RowCodes
from .codec import Codec, Encoding, check_shapes


class Rows(NamedTuple):
    """A matrix whose rows have a range each.

    Attributes:
        codes: uint8 (ceil(n * bits / 8),) for n elements, row after row.
        lo: (rows, 1), lower end of each row's range.
        hi: same shape, upper end.
    """

    codes: Tensor
    lo: Tensor
    hi: Tensor


@dataclass(frozen=True, repr=False)
class affine_rows(Codec):
    """Keep 4 or 8 bits an element, and the range of each row.

    u = (hi - lo) / L, c = floor((x - lo) / u + 1/2) and back x = c u + lo; rows of equal numbers
    come back exactly. Of 4-bit codes the first of two neighbours is in the high half of a byte.
    A vector is one row. With ``include_zero`` lo <= 0 <= hi, the grid moves by at most u/2 so that
    zero is on it, and back x = (c - z) u with z = floor(1/2 - lo / u).

    Args:
        bits: 4 or 8.
        levels: L, at most 2^bits - 1, which is the default.
        include_zero: put zero on the grid, so that it comes back as zero. First moments kept so
            always do.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2505.17967.

    >>> import torch, gradtx as gx
    >>> codec, x = gx.codecs.affine_rows(4), torch.tensor([[0.0, 7.0, 15.0], [2.0, 2.0, 2.0]])
    >>> codec.decode(codec.encode(x, codec.init(x, signed=True)), like=x)
    tensor([[ 0.,  7., 15.],
            [ 2.,  2.,  2.]])
    """

    bits: Literal[4, 8] = 8
    levels: int | None = None
    include_zero: bool = False

    def __post_init__(self) -> None:
        most = 2**self.bits - 1
        if self.levels is not None and not 1 <= self.levels <= most:
            raise ValueError(f"affine_rows: levels must be in [1, {most}], got {self.levels}")

    @property
    def keeps_zero(self) -> bool:
        return self.include_zero

    def for_first_moment(self) -> Codec:
        return self if self.include_zero else replace(self, include_zero=True)

    def _shapes(self, p: Tensor) -> tuple[tuple[int], tuple[int, int]]:
        rows = p.shape[0] if p.ndim > 1 else 1
        return (math.ceil(p.numel() * self.bits / 8),), (rows, 1)

    def init(self, p: Tensor, signed: bool) -> Rows:
        codes, rows = self._shapes(p)
        lo = p.new_zeros(rows, dtype=accumulator_dtype(p.dtype))
        return Rows(p.new_zeros(codes, dtype=torch.uint8), lo, torch.zeros_like(lo))

    def decode(self, enc: Encoding, like: Tensor) -> Tensor:
        assert isinstance(enc, Rows)
        codes, rows = self._shapes(like)
        check_shapes(self, like, enc, codes, rows, rows)
        if self._is_block_format(like, enc.codes, enc.lo, enc.hi):
            args = self.bits, _matrix(like)[1], like.numel(), like.dtype
            out = dequantize_affine(enc.codes, enc.lo.view(-1), enc.hi.view(-1), *args)
            return out.view(like.shape)
        flat = enc.codes
        if self.bits == 4:
            flat = torch.stack([flat >> 4, flat & 15], dim=-1).reshape(-1)[: like.numel()]
        lo, hi = enc.lo.to(like.dtype), enc.hi.to(like.dtype)
        level = flat.to(like.dtype).reshape(_matrix(like))
        step = (hi - lo) / self._top
        if self.include_zero:
            return ((level - _zero_level(lo, step)) * step).reshape(like.shape)
        return (level * step + lo).reshape(like.shape)

    def encode(self, full: Tensor, enc: Encoding) -> Rows:
        assert isinstance(enc, Rows)
        x = full.reshape(_matrix(full))
        if not x.numel():
            return enc
        if self._is_block_format(full, enc.lo):
            args = self.bits, x.shape[1], False, None, False, torch.float32
            out, lo, hi = quantize_affine(x, *args)
            return Rows(out, lo[:, None], hi[:, None])
        lo, hi = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        if self.include_zero:
            lo, hi = lo.clamp(max=0), hi.clamp(min=0)
        step = (hi - lo) / self._top
        above = x + _zero_level(lo, step) * step if self.include_zero else x - lo
        level = torch.floor(above / torch.where(step > 0, step, 1.0) + 0.5)
        codes = level.clamp(0, self._top).to(torch.uint8).reshape(-1)
        if self.bits == 4:
            pairs = F.pad(codes, (0, codes.numel() % 2)).reshape(-1, 2)
            codes = (pairs[:, 0] << 4) | pairs[:, 1]
        return Rows(codes, lo.to(enc.lo.dtype), hi.to(enc.hi.dtype))

    def row_codes(self, enc: Encoding, like: Tensor) -> RowCodes | None:
        assert isinstance(enc, Rows)
        if like.ndim != 2 or not self._is_block_format(like, *enc) or enc.hi.dtype != enc.lo.dtype:
            return None
        codes, rows = self._shapes(like)
        check_shapes(self, like, enc, codes, rows, rows)
        dense = all(x.is_contiguous() and x.is_cpu for x in enc) and enc.codes.dtype == torch.uint8
        whole = like.shape[1] * self.bits % 8 == 0
        return RowCodes(*enc, self.bits) if dense and whole else None

    def _is_block_format(self, x: Tensor, *others: Tensor) -> bool:
        """Whether the codes are those of ``ops.quantize_affine``, which knows no derivatives."""
        same = self._top == 2**self.bits - 1 and not self.include_zero and x.numel() > 0
        single = all(t.dtype == torch.float32 for t in (x, *others[-1:]))
        return same and single and not is_watched(x, *others)

    @property
    def _top(self) -> int:
        return self.levels or 2**self.bits - 1


def _zero_level(lo: Tensor, step: Tensor) -> Tensor:
    """The code of zero in rows whose range includes it."""
    return torch.floor(0.5 - lo / torch.where(step > 0, step, 1.0))


def _matrix(x: Tensor) -> tuple[int, int]:
    rows = x.shape[0] if x.ndim > 1 else 1
    return rows, x.numel() // max(rows, 1)


@dataclass(frozen=True, repr=False)
class rotated(Codec):
    """A codec for what ``gx.in_basis`` gives, which stores it in the original basis.

    Args:
        codec: how it is stored there.
        basis, side, transform: as in ``gx.in_basis``.

    Raises:
        ValueError: an unknown name, or a leaf that is no matrix.

    >>> import torch, gradtx as gx
    >>> codec, x = gx.codecs.rotated(gx.codecs.dense()), torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    >>> codec.encode(x, codec.init(x, signed=True))
    tensor([[2.1213, 2.1213],
            [0.0000, 0.0000]])
    """

    codec: Codec
    basis: str = static("dct2", choices=BASES)
    side: str = static("std", choices=SIDES)
    transform: str = static("auto", choices=TRANSFORMS)

    def init(self, p: Tensor, signed: bool) -> Encoding:
        if p.ndim != 2:
            raise ValueError(
                f"rotated: needs a matrix, got shape {tuple(p.shape)}; use gx.as_matrices for more "
                "dimensions, gx.partition for vectors"
            )
        return self.codec.init(p, signed)

    def decode(self, enc: Encoding, like: Tensor) -> Tensor:
        stored = self.codec.decode(enc, like)
        return rotate(stored, self.basis, self.side, self.transform)

    def encode(self, full: Tensor, enc: Encoding) -> Encoding:
        back = rotate(full, self.basis, self.side, self.transform, inverse=True)
        return self.codec.encode(back, enc)

    def for_leaf(self, name: str) -> Codec:
        return replace(self, codec=self.codec.for_leaf(name))

    def rescale(self, enc: Encoding, factor: float, like: Tensor) -> Encoding:
        return self.codec.rescale(enc, factor, like)
