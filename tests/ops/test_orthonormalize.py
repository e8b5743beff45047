"""Orthonormal bases of thin matrices, against Householder's in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from gradtx.ops import OPS, orthonormalize_
from gradtx.ops.registry import has_kernel
from gradtx.subspace.orthonormal import orthonormal
from gradtx.subspace.projector import canonical

EPS = torch.finfo(torch.float32).eps
SHAPES = [(1, 1, 1), (3, 7, 7), (2, 40, 8), (1, 100, 17), (3, 130, 33), (1, 512, 64), (2, 300, 130)]

CPU = Path("/proc/cpuinfo")
KERNEL = has_kernel("orthonormalize_", "CPU")
SERVES = KERNEL and CPU.exists() and "avx512_vbmi2" in CPU.read_text()  # anything at all


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def decomposed(y: Tensor) -> tuple[Tensor, Tensor]:
    q = torch.full_like(y, torch.nan)
    return q, orthonormalize_(y, q)


def conditioned(shape: tuple[int, int, int], digits: float) -> Tensor:
    """Random matrices of condition 10^digits, in float32."""
    u, _, v = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    return (u * torch.logspace(0, -digits, shape[2], dtype=torch.float64) @ v).float()


def assert_basis(q: Tensor, y: Tensor, condition: float) -> None:
    """Assert that q is an orthonormal basis as exact as Householder's in float32."""
    rank = y.shape[-1]
    eye = torch.eye(rank, dtype=torch.float64).expand(y.shape[0], rank, rank)
    torch.testing.assert_close(q.double().mT @ q.double(), eye, rtol=0, atol=8 * EPS)
    exact = torch.linalg.qr(y.double()).Q
    exact = exact * (exact * q).sum(-2, keepdim=True).sign()
    torch.testing.assert_close(q.double(), exact, rtol=0, atol=30 * condition * EPS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [0.0, 6.0, 20.0])
def test_columns_of_any_length(shape, spread, threads):
    scale = torch.logspace(-10, spread - 10, shape[2])
    q, exact = decomposed(y := torch.randn(shape) * scale)
    if SERVES and shape[1] > 2 * shape[2]:
        assert exact.all()
    for one, of, known in zip(q, y, exact, strict=True):
        if known:
            assert_basis(one[None], of[None], 1e3 if shape[1] <= 2 * shape[2] else 10)
            assert torch.equal(canonical(one), one)


@pytest.mark.parametrize("digits", [1, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("shape", [(2, 40, 8), (1, 512, 64)])
def test_condition(shape, digits, threads):
    y = conditioned(shape, digits)
    q, exact = decomposed(y)
    if SERVES and digits <= 4:
        assert exact.all()
    basis = orthonormal(y)
    assert torch.equal(basis[exact], q[exact])
    assert_basis(basis, y, 10.0**digits)


@pytest.mark.skipif(not SERVES, reason="no CPU kernel with AVX-512")
@pytest.mark.parametrize("kind", ["zeros", "zero column", "equal columns", "nan", "inf", "tiny"])
def test_what_has_no_r_is_left_out(kind):
    y = torch.randn(3, 40, 8)
    if kind == "zeros":
        y[1] = 0
    elif kind == "zero column":
        y[1, :, 3] = 0
    elif kind == "equal columns":
        y[1, :, 3] = y[1, :, 2]
    elif kind == "tiny":
        y[1] *= 1e-35
    else:
        y[1, 7, 3] = float(kind)
    q, exact = decomposed(y)
    assert exact.tolist() == [True, False, True]
    assert_basis(q[exact], y[exact], 10)
    if kind not in ("nan", "inf"):
        basis = orthonormal(y)
        assert torch.equal(basis[exact], q[exact])
        assert torch.equal(basis[1], canonical(torch.linalg.qr(y[1]).Q))


def test_a_call_gives_the_same_bits_again(threads):
    y = torch.randn(3, 200, 64)
    first, again = decomposed(y)[0], decomposed(y)[0]  # NaN where no kernel serves
    torch.testing.assert_close(first, again, rtol=0, atol=0, equal_nan=True)


def test_batches_lie_anyhow():
    y = torch.randn(2, 3, 8, 40).mT
    basis = orthonormal(y)
    assert basis.shape == y.shape
    for i in range(2):
        torch.testing.assert_close(basis[i], orthonormal(y[i].contiguous()), rtol=0, atol=4 * EPS)


def test_reference():
    y = torch.randn(2, 40, 8)
    q = torch.empty_like(y)
    assert OPS["orthonormalize_"].reference(y, q).all()
    torch.testing.assert_close(q, orthonormal(y), rtol=0, atol=30 * EPS)
    assert torch.equal(canonical(q), q)


def test_opcheck():
    opcheck(orthonormalize_, (torch.randn(2, 40, 8), torch.empty(2, 40, 8)))


@pytest.mark.parametrize(
    ("y", "q"),
    [
        (torch.ones(4, 2), torch.ones(4, 2)),
        (torch.ones(1, 4, 2), torch.ones(1, 4, 3)),
        (torch.ones(1, 2, 4).mT, torch.ones(1, 4, 2)),
        (torch.ones(1, 4, 2).double(), torch.ones(1, 4, 2).double()),
    ],
)
@pytest.mark.skipif(not KERNEL, reason="no CPU kernels")
def test_bad_input(y, q):
    with pytest.raises(RuntimeError, match="orthonormalize_: y and q must"):
        orthonormalize_(y, q)
