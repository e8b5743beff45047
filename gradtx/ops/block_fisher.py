"""The inverses of a Fisher matrix's blocks: ``gradtx::block_fisher`` and ``..._times``.

    block_fisher(Tensor gradients, SymInt block, float damping) -> (Tensor factor, Tensor diagonal)
    block_fisher_times(Tensor gradients, Tensor factor, Tensor x, SymInt block, float damping)
                       -> Tensor

With G (m, size) the gradients of a block's entries, F = damping I + G^T G / m is inverted by way of
a system as small as there is: m F = G^T G + m damping I = L L^T for blocks of at most m entries,
and A = G G^T + m damping I = L L^T for larger ones. W = L^-1 is kept, its lower triangle row by
row, so that F^-1 = m W^T W, or F^-1 = (I - (W G)^T (W G)) / damping. All of it is in float64. A
block that is not positive definite is NaN.

Kernels do all that a block needs in one visit. The functions here are differentiable; the bare
operators are constants.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from gradtx.core import decompositions, woodbury
from gradtx.core.autocast import outside_autocast
from gradtx.core.watch import is_watched
from gradtx.ops.registry import NAMESPACE, Op, has_kernel, operator, require_together

__all__ = ["block_fisher", "block_fisher_times", "blocks_of", "unpacked"]

_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
_FACTOR = "(Tensor gradients, SymInt block, float damping) -> (Tensor factor, Tensor diagonal)"
_TIMES = "(Tensor gradients, Tensor factor, Tensor x, SymInt block, float damping) -> Tensor"
_PIECE = 1 << 20  # elements of blocks in float64 that are there at once
_LARGEST = 128  # unknowns of a system up to which the kernel is faster than LAPACK
_FEWEST = 4  # blocks from which on it is


def _check(name: str, gradients: Tensor, block: int, damping: float) -> None:
    if gradients.ndim != 2 or gradients.shape[0] < 1:
        raise ValueError(
            f"{name}: gradients must be (m, n) with m >= 1, got {tuple(gradients.shape)}"
        )
    if gradients.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name}: gradients must be float32 or float64, got {gradients.dtype}")
    if block < 1:
        raise ValueError(f"{name}: block must be >= 1, got {block}")
    if not (damping > 0 and math.isfinite(damping)):
        raise ValueError(f"{name}: damping must be > 0, got {damping}")


def _check_times(gradients: Tensor, factor: Tensor, x: Tensor, block: int, damping: float) -> None:
    name = "block_fisher_times"
    _check(name, gradients, block, damping)
    shape = _factor_shape(gradients, block)
    if tuple(factor.shape) != shape or factor.dtype != torch.float64:
        raise ValueError(
            f"{name}: factor must be float64 {shape}, got {factor.dtype} {tuple(factor.shape)}"
        )
    if x.shape != gradients.shape[1:] or x.dtype != torch.float64:
        raise ValueError(
            f"{name}: x must be float64 ({gradients.shape[1]},), got {x.dtype} {tuple(x.shape)}"
        )
    require_together(name, gradients, factor, x)


def _width(gradients: Tensor, block: int) -> int:
    return min(block, max(gradients.shape[1], 1))


def _has_few(gradients: Tensor, block: int) -> bool:
    """Whether a block has a system with an unknown for every entry, F^-1 = m W^T W."""
    return _width(gradients, block) <= gradients.shape[0]


def _factor_shape(gradients: Tensor, block: int) -> tuple[int, int]:
    width = _width(gradients, block)
    size = min(width, gradients.shape[0])
    return -(-gradients.shape[1] // width), size * (size + 1) // 2


def blocks_of(x: Tensor, width: int) -> Tensor:
    """The last dimension in blocks (..., blocks, width), zeros where the last is shorter."""
    short = -x.shape[-1] % width
    wide = torch.nn.functional.pad(x, (0, short)) if short else x
    return wide.unflatten(-1, (-1, width))


def unpacked(factor: Tensor) -> Tensor:
    """W (blocks, size, size) from its lower triangles."""
    size = (math.isqrt(8 * factor.shape[1] + 1) - 1) // 2
    row, column = torch.tril_indices(size, size, dtype=torch.int64, device=factor.device)
    out = factor.new_zeros((factor.shape[0], size * size))
    return out.index_copy(1, row * size + column, factor).unflatten(1, (size, size))


def _factored(gradients: Tensor, block: int, damping: float) -> tuple[Tensor, Tensor]:
    """The factor and the diagonal, see the module's text."""
    m = gradients.shape[0]
    width, few = _width(gradients, block), _has_few(gradients, block)
    size, step = min(m, width), width * max(_PIECE // (m * width), 1)
    row, column = torch.tril_indices(size, size, dtype=torch.int64, device=gradients.device)
    eye = torch.eye(size, dtype=torch.float64, device=gradients.device)
    factors, diagonals = [], []
    for part in gradients.split(step, dim=1):
        pieces = _pieces(part, width, few)
        grams = (g.mT @ g if few else g @ g.mT for g in map(Tensor.double, pieces))
        gram = functools.reduce(torch.add, grams)
        lower, there = woodbury.factor(gram, m * damping)
        there = (there & lower.isfinite().all(-1).all(-1))[:, None]
        lower = torch.where(there[..., None], lower, eye)
        w = decompositions.solve_triangular(lower, eye.expand_as(lower), upper=False)
        if few:
            diagonal = (m * w.square().sum(-2)).clamp(min=woodbury.LEAST / damping)
        else:
            white = (woodbury.whitened(lower, g) for g in pieces)
            diagonal = torch.cat([woodbury.inverse_diagonal(y, damping) for y in white], -1)
        factors.append(torch.where(there, w[:, row, column], torch.nan))
        diagonals.append(torch.where(there, diagonal, torch.nan).flatten()[: part.shape[1]])
    return torch.cat(factors), torch.cat(diagonals)


def _multiplied(gradients: Tensor, factor: Tensor, x: Tensor, block: int, damping: float) -> Tensor:
    """F^-1 x block by block, see the module's text."""
    m = gradients.shape[0]
    width, few = _width(gradients, block), _has_few(gradients, block)
    step = max(_PIECE // (m * width), 1)
    parts = (gradients.split(step * width, dim=1), factor.split(step), x.split(step * width))
    out = []
    for rows, packed, z in zip(*parts, strict=True):
        w, here = unpacked(packed), blocks_of(z, width)[..., None]  # (blocks, width, 1)
        if few:
            change = m * _through(w, here)
        else:
            pieces = _pieces(rows, width, few)
            each = zip(pieces, here.split([g.shape[2] for g in pieces], dim=1), strict=True)
            dots = functools.reduce(torch.add, (g.double() @ part for g, part in each))
            weights = _through(w, dots)  # (blocks, m, 1)
            change = torch.cat([g.double().mT @ weights for g in pieces], 1)
            change = (here - change) / damping
        out.append(change.flatten()[: len(z)])
    return torch.cat(out)


def _pieces(gradients: Tensor, width: int, whole: bool) -> tuple[Tensor, ...]:
    """Blocks (blocks, m, width), some of their columns at a time where they are large."""
    g = blocks_of(gradients, width).movedim(1, 0)
    return (g,) if whole else g.split(max(_PIECE // max(g.shape[:2].numel(), 1), 1), dim=2)


def _through(w: Tensor, x: Tensor) -> Tensor:
    """W^T W x; what is not finite spreads to all of a block."""
    inside = w @ x
    return torch.where(inside.sum(-2, keepdim=True).isfinite(), w.mT @ inside, torch.nan)


def _fake(gradients: Tensor, block: int, damping: float) -> tuple[Tensor, Tensor]:
    _check("block_fisher", gradients, block, damping)
    shape = _factor_shape(gradients, block)
    return (
        gradients.new_empty(shape, dtype=torch.float64),
        gradients.new_empty(gradients.shape[1:], dtype=torch.float64),
    )


@operator("block_fisher" + _FACTOR, fake=_fake)
def _block_fisher(gradients: Tensor, block: int, damping: float) -> tuple[Tensor, Tensor]:
    """Factor; see the module's text."""
    _check("block_fisher", gradients, block, damping)
    return _factored(gradients, block, damping)


def _fake_times(gradients: Tensor, factor: Tensor, x: Tensor, block: int, damping: float) -> Tensor:
    _check_times(gradients, factor, x, block, damping)
    return x.new_empty(x.shape)


@operator("block_fisher_times" + _TIMES, fake=_fake_times)
def _block_fisher_times(
    gradients: Tensor, factor: Tensor, x: Tensor, block: int, damping: float
) -> Tensor:
    """Multiply; see the module's text."""
    _check_times(gradients, factor, x, block, damping)
    return _multiplied(gradients, factor, x, block, damping)


# Where the kernels have no instructions they call these.
for _name, _schema, _function, _shape in (
    ("block_fisher_reference", _FACTOR, _factored, _fake),
    ("block_fisher_times_reference", _TIMES, _multiplied, _fake_times),
):
    Op(_name + _schema, _function, _shape).define(_LIBRARY)


def _has_kernel(gradients: Tensor, block: int) -> bool:
    """Whether there is a kernel that is made for so many blocks of this size."""
    width = _width(gradients, block)
    return (
        gradients.device.type == "cpu"
        and min(width, gradients.shape[0]) <= _LARGEST
        and gradients.shape[1] >= _FEWEST * width
        and has_kernel("block_fisher", "CPU")
    )


@outside_autocast
def block_fisher(gradients: Tensor, block: int, damping: float) -> tuple[Tensor, Tensor]:
    """What the inverse of damping I + G^T G / m takes, block by block, and its diagonal.

    Args:
        gradients: (m, n), float32 or float64, one a row, m >= 1.
        block: entries of a block, >= 1; the last one is shorter.
        damping: > 0.

    Returns:
        The factor for ``block_fisher_times``, float64 (blocks, s (s + 1) / 2) with s the smaller of
        m and ``block``, and the diagonal, float64 (n,), at least 1e-12 / damping. NaN in blocks
        that are not positive definite.

    Raises:
        ValueError: a value outside its range, another shape or dtype.

    Source: arXiv 2107.03356, arXiv 2203.07259.

    >>> import torch, gradtx as gx
    >>> gx.ops.block_fisher(torch.tensor([[1.0, 0.0, 2.0]]), 1, 1.0)[1]
    tensor([0.5000, 1.0000, 0.2000], dtype=torch.float64)
    """
    _check("block_fisher", gradients, block, damping)
    if _has_kernel(gradients, block) and not is_watched(gradients):
        return _block_fisher(gradients, block, damping)
    return _factored(gradients, block, damping)


@outside_autocast
def block_fisher_times(
    gradients: Tensor, factor: Tensor, x: Tensor, block: int, damping: float
) -> Tensor:
    """F^-1 x with the factor that ``block_fisher`` gives for the same gradients.

    Args:
        gradients: (m, n), float32 or float64.
        factor: float64.
        x: float64 (n,).
        block: entries of a block.
        damping: > 0.

    Raises:
        ValueError: a value outside its range, another shape or dtype.

    >>> import torch, gradtx as gx
    >>> rows = torch.tensor([[1.0, 0.0, 2.0]])
    >>> factor, _ = gx.ops.block_fisher(rows, 1, 1.0)
    >>> gx.ops.block_fisher_times(rows, factor, torch.ones(3, dtype=torch.float64), 1, 1.0)
    tensor([0.5000, 1.0000, 0.2000], dtype=torch.float64)
    """
    _check_times(gradients, factor, x, block, damping)
    if _has_kernel(gradients, block) and not is_watched(gradients, factor, x):
        return _block_fisher_times(gradients, factor, x, block, damping)
    return _multiplied(gradients, factor, x, block, damping)
