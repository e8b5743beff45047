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

from gradtx.ops.registry import operator

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


def _fake(x: Tensor, twiddle: Tensor, inverse: bool) -> Tensor:
    rows, n = x.shape
    if not inverse:
        return x.new_empty((rows, n))
    return x.new_empty((rows, n // 2 + 1), dtype=x.dtype.to_complex())


def _fake_after(out: Tensor, x: Tensor, twiddle: Tensor, inverse: bool) -> None:
    pass


@operator("dct_before(Tensor x, Tensor twiddle, bool inverse) -> Tensor", fake=_fake)
def dct_before(x: Tensor, twiddle: Tensor, inverse: bool) -> Tensor:
    """From the matrix to the FFT; see the module's text."""
    return pass_before(x.contiguous(), twiddle, inverse)


@operator(
    "dct_after_(Tensor(a!) out, Tensor x, Tensor twiddle, bool inverse) -> ()",
    fake=_fake_after,
    mutates=True,
)
def dct_after_(out: Tensor, x: Tensor, twiddle: Tensor, inverse: bool) -> None:
    """From the FFT's result into a contiguous matrix; see the module's text."""
    out.copy_(pass_after(x, out.shape[1], twiddle, inverse))
