"""The operators around the FFT of a DCT: ``gradtx::dct_before`` and ``gradtx::dct_after_``.

    dct_before(Tensor x, Tensor twiddle, bool inverse) -> Tensor
    dct_after_(Tensor(a!) out, Tensor x, Tensor twiddle, bool inverse) -> ()

Of a real matrix (rows, n), float32 or float64, contiguous where it is written. A real FFT takes
the samples of a row in the order 0, 2, 4, ... 5, 3, 1, time-reversed (j -> -j mod n), which
conjugates its result V. With twiddles w_k = s_k exp(i pi k / (2n)) coefficient k is the real part
of w_k V_k, and coefficient n - k its imaginary part. The inverse goes the same way back: twiddles
times pairs of coefficients, the inverse FFT, and the samples in their own order. ``twiddle`` holds
the real and the imaginary parts, (2, n // 2 + 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradtx.ops.registry import operator, require_apart, require_together

__all__ = ["dct_after_", "dct_before", "pass_after", "pass_before"]


def _rotate(a: Tensor, b: Tensor, twiddle: Tensor) -> tuple[Tensor, Tensor]:
    """``(a + ib) twiddle``; a product of complex tensors rounds by where a number lies."""
    c, d = twiddle
    return a * c - b * d, a * d + b * c


def pass_before(x: Tensor, twiddle: Tensor, inverse: bool) -> Tensor:
    """What the FFT takes: samples (rows, n), or for the inverse a spectrum (rows, n // 2 + 1)."""
    n = x.shape[1]
    j = torch.arange(n, dtype=torch.int64, device=x.device)
    if not inverse:
        return x.index_select(1, torch.cat([j[:1], j[1::2], j[2::2].flip(0)]))
    half = n // 2 + 1
    return torch.complex(*_rotate(x[:, :half], x.index_select(1, -j[:half] % n), twiddle))


def pass_after(x: Tensor, n: int, twiddle: Tensor, inverse: bool) -> Tensor:
    """Coefficients from a spectrum, or for the inverse samples in their own order: (rows, n)."""
    if inverse:
        j = torch.arange(n, dtype=torch.int64, device=x.device)
        return x.index_select(1, torch.where(j % 2 == 1, j // 2 + 1, -(j // 2) % n))
    low, high = _rotate(x.real, x.imag, twiddle)
    return torch.cat([low, high[:, 1 : n - n // 2].flip(1)], 1)


def _check(x: Tensor, twiddle: Tensor) -> None:
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dct: passes need float32 or float64, got {x.dtype}")
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"dct: passes need a matrix with columns, got shape {tuple(x.shape)}")
    if twiddle.dtype != x.dtype or twiddle.shape != (2, x.shape[1] // 2 + 1):
        raise ValueError(
            f"dct: twiddle must have shape {(2, x.shape[1] // 2 + 1)} and {x.dtype}, got "
            f"{tuple(twiddle.shape)} and {twiddle.dtype}"
        )
    require_together("dct", x, twiddle)


def _check_after(out: Tensor, x: Tensor, twiddle: Tensor, inverse: bool) -> None:
    _check(out, twiddle)
    rows, n = out.shape
    if not out.is_contiguous():
        raise ValueError("dct: out must be contiguous")
    wanted = (rows, n) if inverse else (rows, n // 2 + 1)
    if x.shape != wanted or x.dtype != (out.dtype if inverse else out.dtype.to_complex()):
        raise ValueError(
            f"dct: the FFT's result must have shape {wanted}, got {tuple(x.shape)} and {x.dtype}"
        )
    require_together("dct", out, x)


def _fake(x: Tensor, twiddle: Tensor, inverse: bool) -> Tensor:
    _check(x, twiddle)
    rows, n = x.shape
    if not inverse:
        return x.new_empty((rows, n))
    return x.new_empty((rows, n // 2 + 1), dtype=x.dtype.to_complex())


def _fake_after(out: Tensor, x: Tensor, twiddle: Tensor, inverse: bool) -> None:
    _check_after(out, x, twiddle, inverse)


@operator("dct_before(Tensor x, Tensor twiddle, bool inverse) -> Tensor", fake=_fake)
def dct_before(x: Tensor, twiddle: Tensor, inverse: bool) -> Tensor:
    """From the matrix to the FFT; see the module's text."""
    _check(x, twiddle)
    return pass_before(x.contiguous(), twiddle, inverse)


@operator(
    "dct_after_(Tensor(a!) out, Tensor x, Tensor twiddle, bool inverse) -> ()",
    fake=_fake_after,
    mutates=True,
)
def dct_after_(out: Tensor, x: Tensor, twiddle: Tensor, inverse: bool) -> None:
    """From the FFT's result into a contiguous matrix; see the module's text."""
    _check_after(out, x, twiddle, inverse)
    require_apart("dct", out, *(() if x.is_complex() else (x,)), twiddle)
    out.copy_(pass_after(x, out.shape[1], twiddle, inverse))
