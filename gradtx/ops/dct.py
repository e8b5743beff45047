"""The operator ``gradtx::dct``: the orthonormal DCT-II of every row, and its inverse, the DCT-III.

    dct(Tensor x, bool inverse, str method, int dim) -> Tensor

With the basis ``C[k, j] = s_k cos(pi k (2j + 1) / (2n))``, ``s_0 = sqrt(1/n)`` and otherwise
``s_k = sqrt(2/n)``, the result is ``x C^T`` along dimension ``dim``, or ``x C`` for the inverse.
The method "fft" is a real FFT of n points between two permutations (Makhoul 1980), "matmul" a
product with C, "auto" whichever is faster for the length: on a CPU, where its kernel is there and
the odd factor of n is small, that is ``dct_halves``. Half precisions are computed in float32.
Constants are computed in float64, rounded once, and kept for every (n, dtype, device).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from gradtx.core.autocast import outside_autocast
from gradtx.core.forward import forward_rule
from gradtx.ops.coordinates import is_plain
from gradtx.ops.dct_halves import base_of, dct_halves, halves_table
from gradtx.ops.dct_passes import dct_after_, dct_before, pass_after, pass_before
from gradtx.ops.registry import applied, has_kernel, operator

__all__ = ["dct", "dct_matrix", "idct"]

_METHODS = ("auto", "fft", "matmul")
_SHORT = 128  # up to here a product with the basis is faster
_ODD = 64  # up to here as odd factor halving is faster than an FFT
_KEPT = 1024  # up to here a matrix of the basis is small enough to keep
_CHUNK = 1 << 17  # elements that a core keeps in its cache between the passes


def _check(x: Tensor, method: str, dim: int) -> None:
    if not x.is_floating_point():
        raise ValueError(f"dct: x must have a floating dtype, got {x.dtype}")
    if x.ndim < 1:
        raise ValueError("dct: x must have a dimension to transform, got a 0-d tensor")
    if method not in _METHODS:
        raise ValueError(f"dct: method must be one of {_METHODS}, got {method!r}")
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dct: dim must be a dimension of x, which has {x.ndim}, got {dim}")


def _fake(x: Tensor, inverse: bool, method: str, dim: int) -> Tensor:
    _check(x, method, dim)
    return x.new_empty(x.shape)


def _vmap(
    info: Any, in_dims: tuple[Any, ...], x: Tensor, inverse: bool, method: str, dim: int
) -> tuple[Tensor, int]:
    return _dct(x.movedim(in_dims[0], 0), inverse, method, _from_the_end(dim, x.ndim - 1)), 0


def _from_the_end(dim: int, dimensions: int) -> int:
    return dim - dimensions if dim >= 0 else dim


def _sizes(n: int) -> Tensor:
    squares = torch.full((n,), 2 / n, dtype=torch.float64, device="cpu")
    squares[0] = 1 / n
    return squares.sqrt()


def _make_twiddle(n: int, dtype: torch.dtype, device: torch.device, inverse: bool) -> Tensor:
    """Factors (2, n // 2 + 1), real and imaginary, between a spectrum and pairs of coefficients."""
    size = _sizes(n)[: n // 2 + 1]
    angle = torch.arange(n // 2 + 1, dtype=torch.float64, device="cpu") * (math.pi / (2 * n))
    if inverse:
        size, angle = 1 / size, -angle
    factor = torch.stack([size * angle.cos(), size * angle.sin()])
    if inverse:  # of the mean, gathered as x + ix: (x + ix) (1 - i) / 2 = x is real
        factor[0, 0], factor[1, 0] = size[0] / 2, -size[0] / 2
    return factor.to(dtype).to(device)


def _make_matrix(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    j = torch.arange(n, dtype=torch.int64, device="cpu")
    phase = j[:, None] * (2 * j + 1) % (4 * n)  # in integers: exact for every n
    angle = torch.arange(4 * n, dtype=torch.float64, device="cpu") * (math.pi / (2 * n))
    table = torch.cos(angle)
    return (_sizes(n)[:, None] * table[phase]).to(dtype).to(device)


_twiddle = functools.lru_cache(maxsize=64)(_make_twiddle)
_matrix = functools.lru_cache(maxsize=16)(_make_matrix)


def _fft(x: Tensor, n: int, inverse: bool) -> Tensor:
    return torch.fft.irfft(x, n=n) if inverse else torch.fft.rfft(x)


def _uses_matrix(n: int, method: str) -> bool:
    return method == "matmul" or (method == "auto" and n <= _SHORT)


def by_halves(x: Tensor, n: int, method: str) -> bool:
    """Whether n numbers of a tensor are transformed by ``dct_halves``."""
    fits = method == "auto" and x.device.type == "cpu" and base_of(n) <= _ODD
    return fits and _has_halves()


@functools.cache
def _has_halves() -> bool:
    return has_kernel("dct_halves", "CPU")


@operator("dct(Tensor x, bool inverse, str method, int dim) -> Tensor", fake=_fake, vmap=_vmap)
def _dct(x: Tensor, inverse: bool, method: str, dim: int) -> Tensor:
    """Transform along a dimension; see the module's text."""
    _check(x, method, dim)
    if not x.numel():
        return x.new_empty(x.shape)
    n = x.shape[dim]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if by_halves(x, n, method):
        matrix, axis = (wide, dim % 2) if x.ndim == 2 else (_rows(wide, dim), 1)
        out = dct_halves(matrix, halves_table(n, wide.dtype, wide.device), inverse, axis)
        return (out if x.ndim == 2 else _back(out, x, dim)).to(x.dtype).contiguous()
    rows = _rows(wide, dim)  # (count, n)
    if _uses_matrix(n, method):
        basis = _matrix(n, rows.dtype, rows.device)  # (n, n)
        out = rows @ (basis if inverse else basis.T)
    else:
        twiddle = _twiddle(n, rows.dtype, rows.device, inverse)
        out = torch.empty_like(rows, memory_format=torch.contiguous_format)
        size = _CHUNK // n * torch.get_num_threads() if x.device.type == "cpu" else len(rows)
        whole = size >= len(rows)
        pieces = ((a,) if whole else a.split(max(1, size)) for a in (rows, out))
        for part, result in zip(*pieces, strict=True):
            spectrum = _fft(dct_before(part, twiddle, inverse), n, inverse)
            dct_after_(result, spectrum, twiddle, inverse)
    return _back(out, x, dim).to(x.dtype).contiguous()


def _compiled(x: Tensor, inverse: bool, method: str, dim: int) -> Tensor:
    """The same in operations that ``torch.compile`` can differentiate."""
    _check(x, method, dim)
    n = x.shape[dim]
    rows = _rows(x.to(torch.promote_types(x.dtype, torch.float32)), dim)  # (count, n)
    if _uses_matrix(n, method):
        basis = _make_matrix(n, rows.dtype, rows.device)  # (n, n)
        out = rows @ (basis if inverse else basis.T)
    else:
        twiddle = _make_twiddle(n, rows.dtype, rows.device, inverse)
        spectrum = _fft(pass_before(rows, twiddle, inverse), n, inverse)
        out = pass_after(spectrum, n, twiddle, inverse)
    return _back(out, x, dim).to(x.dtype)


def _rows(x: Tensor, dim: int) -> Tensor:
    """What lies along a dimension as rows of a matrix."""
    return x.movedim(dim, -1).reshape(-1, x.shape[dim])


def _back(rows: Tensor, x: Tensor, dim: int) -> Tensor:
    """Such rows in the shape of ``x``."""
    return rows.reshape(x.movedim(dim, -1).shape).movedim(-1, dim)


def dct_matrix(
    n: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """The basis C (n, n), one frequency a row, correctly rounded. Do not write to it.

    >>> import torch, gradtx as gx
    >>> gx.ops.dct_matrix(2)
    tensor([[ 0.7071,  0.7071],
            [ 0.7071, -0.7071]])
    """
    if n < 1:
        raise ValueError(f"dct_matrix: n must be >= 1, got {n}")
    return _matrix(n, dtype, torch.device(device))


def dct_vectors(n: int, chosen: Tensor, dtype: torch.dtype, inverse: bool = False) -> Tensor:
    """Vectors of the basis as columns, (n, k): those of frequencies ``chosen``.

    Args:
        n: their length.
        chosen: int64 (k,).
        dtype: theirs.
        inverse: those of the transposed basis instead.

    >>> import torch
    >>> from gradtx.ops.dct import dct_vectors
    >>> dct_vectors(2, torch.tensor([1]), torch.float32)
    tensor([[ 0.7071],
            [-0.7071]])
    """
    if 0 < n <= _KEPT and not torch.compiler.is_compiling():
        matrix = _matrix(n, dtype, chosen.device)
        return matrix.index_select(1, chosen) if inverse else matrix.index_select(0, chosen).mT
    every = torch.arange(n, dtype=chosen.dtype, device=chosen.device)
    units = (chosen[:, None] == every).to(dtype)
    return (dct if inverse else idct)(units).mT


class _Rotation(torch.autograd.Function):
    """The operator for automatic differentiation: an orthogonal map and its transpose."""

    @staticmethod
    def forward(x: Tensor, inverse: bool, method: str, dim: int) -> Tensor:
        return _dct(x, inverse, method, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.inverse, *ctx.how = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _Rotation.apply(grad, not ctx.inverse, *ctx.how), None, None, None

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, dx: Tensor, *_: Any) -> Tensor:
        return _Rotation.apply(dx, ctx.inverse, *ctx.how)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, inverse: bool, method: str, dim: int
    ) -> tuple[Tensor, int]:
        dim = _from_the_end(dim, x.ndim - 1)
        return _Rotation.apply(x.movedim(in_dims[0], 0), inverse, method, dim), 0


@outside_autocast
def _transform(x: Tensor, inverse: bool, method: str, dim: int) -> Tensor:
    if torch.compiler.is_compiling() and x.numel():
        return _compiled(x, inverse, method, dim)
    # An operator that is written in Python takes longer than small transforms.
    if x.ndim == 2 and x.numel() and -2 <= dim < 2 and is_plain(x):
        n = x.shape[dim]
        if by_halves(x, n, method):
            return dct_halves(x, halves_table(n, x.dtype, x.device), inverse, dim % 2)
    return applied(_Rotation, x, inverse, method, dim)


def dct(x: Tensor, method: str = "auto", dim: int = -1) -> Tensor:
    """The orthonormal DCT-II along a dimension; differentiable.

    Args:
        x: floating tensor (..., n).
        method: "fft", "matmul" or "auto".
        dim: the dimension, the last one unless said otherwise.

    Raises:
        ValueError: another dtype, a 0-d tensor, an unknown method or no such dimension.

    >>> import torch, gradtx as gx
    >>> gx.ops.dct(torch.ones(4)).abs() > 1e-6
    tensor([ True, False, False, False])
    """
    return _transform(x, False, method, dim)


def idct(x: Tensor, method: str = "auto", dim: int = -1) -> Tensor:
    """The orthonormal DCT-III along a dimension, the inverse of ``dct``.

    >>> import torch, gradtx as gx
    >>> x = torch.arange(5.0)
    >>> bool(torch.allclose(gx.ops.idct(gx.ops.dct(x)), x, atol=1e-6))
    True
    """
    return _transform(x, True, method, dim)
