"""Coupled Newton iterations of the operator, against iterations in float64."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx
from gradtx.ops.coupled_newton import _coupled_newton, _iterations

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16
SIZES = [1, 5, 16, 17, 33, 64, 100, 130, 300]
ERRORS = {F64: 1e-12, F32: 2e-5, BF16: 0.1, torch.float16: 1e-2}


def stack(count, n, p, dtype=F32, low=0.2):
    """Symmetric matrices with eigenvalues from low to (p + 1) / 2, and scales."""
    generator = torch.Generator().manual_seed(n)
    q = torch.linalg.qr(torch.randn(count, n, n, generator=generator, dtype=F64)).Q
    values = torch.linspace(low, (p + 1) / 2, n, dtype=F64)
    m = (q * values) @ q.mT
    return ((m + m.mT) / 2).to(dtype), torch.linspace(1, 3, count, dtype=dtype)


def exact(m, scale, p, steps):
    """The iteration, written down once more."""
    m, eye = m.double(), torch.eye(m.shape[1], dtype=F64)
    x = scale.double()[:, None, None] * eye
    for _ in range(steps):
        w = (1 + 1 / p) * eye - m / p
        x, m = x @ w, torch.linalg.matrix_power(w, p) @ m
    return x


def error(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("p", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize(
    ("dtype", "low", "halves"),
    [
        (F32, None, False),
        (F32, None, True),
        (F32, BF16, False),
        (F32, BF16, True),
        (F64, None, False),
    ],
)
def test_iterations(n, p, dtype, low, halves):
    m, scale = stack(3, n, p, dtype)
    got = gx.ops.coupled_newton(m, scale, p, 5, 0.0, low, halves)
    assert got.dtype == dtype
    assert got.is_contiguous()
    assert error(got, exact(m, scale, p, 5)) <= ERRORS[low or dtype]


@pytest.mark.parametrize("low", [F32, BF16, torch.float16])
@pytest.mark.parametrize("p", [2, 4, 7])
@pytest.mark.parametrize("tol", [0.0, 1e-2])
def test_reference_and_kernel_round_alike(low, p, tol):
    args = (*stack(2, 70, p), p, 6, tol, low, False)
    got, want = _coupled_newton(*args), _iterations(*args)
    assert error(got, want.double()) <= (1e-6 if low == F32 else ERRORS[low] / 20)


@pytest.mark.parametrize(
    ("low", "halves"), [(F32, False), (F32, True), (BF16, False), (BF16, True)]
)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neither_batches_nor_threads_matter(count, threads, low, halves):
    """A thread has a matrix to itself, or all share one of those that remain."""
    before = torch.get_num_threads()
    m, scale = stack(count, 150, 4)
    args = (4, 9, 1e-3, low, halves)
    alone = [_coupled_newton(*one, *args) for one in zip(m.split(1), scale.split(1), strict=True)]
    torch.set_num_threads(threads)
    try:
        assert torch.equal(_coupled_newton(m, scale, *args), torch.cat(alone))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("low", [F32, BF16, F64])
def test_every_matrix_stops_by_itself(low):
    """When no entry of |M - I| reaches tol; later steps change what is done no more."""
    dtype = F64 if low == F64 else F32
    near, scale = stack(1, 40, 2, dtype, low=1.4)
    far = stack(1, 40, 2, dtype, low=0.01)[0]
    m, scale = torch.cat([far, near]), scale.expand(2).contiguous()
    got = gx.ops.coupled_newton(m, scale, 2, 30, 0.05, low)
    steps = [
        next(k for k in range(1, 31) if (_m_after(x, k) - torch.eye(40)).abs().max() < 0.05)
        for x in m
    ]
    assert steps[0] > steps[1]
    for i, k in enumerate(steps):
        want = gx.ops.coupled_newton(m[i : i + 1], scale[i : i + 1], 2, k, 0.0, low)
        assert torch.equal(got[i : i + 1], want)
    both = gx.ops.coupled_newton(m, scale, 2, 30, 0.05, low, together=True)
    assert error(both[1], exact(m[1:], scale[1:], 2, 30)[0]) < ERRORS[low]
    assert not torch.equal(both[1], got[1])


def _m_after(m, steps):
    m, eye = m.double(), torch.eye(m.shape[-1], dtype=F64)
    for _ in range(steps):
        w = 1.5 * eye - m / 2
        m = w @ w @ m
    return m


@pytest.mark.parametrize("low", [F32, BF16])
def test_nan_stays_in_its_matrix(low):
    m, scale = stack(3, 20, 4)
    m[1, 3, 4] = torch.nan
    got = gx.ops.coupled_newton(m, scale, 4, 20, 1e-2, low)
    assert got[1].isnan().all()
    assert got[::2].isfinite().all()


def test_strides_do_not_matter():
    m, scale = stack(4, 40, 4)
    for x in (m[::2], m.mT[::2], m[:, ::2, ::2][::2]):
        args = (scale[::2], 4, 5)
        assert torch.equal(
            gx.ops.coupled_newton(x, *args), gx.ops.coupled_newton(x.contiguous(), *args)
        )


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 0)])
def test_empty(shape):
    assert gx.ops.coupled_newton(torch.ones(shape), torch.ones(shape[0]), 2, 3).shape == shape


def test_stacks_are_taken_apart(monkeypatch):
    m, scale = stack(5, 6, 4, F64)
    whole = gx.ops.coupled_newton(m, scale, 4, 9, 1e-3)
    monkeypatch.setattr("gradtx.ops.matrix_powers._PIECE", 2 * m[0].numel())
    torch.testing.assert_close(gx.ops.coupled_newton(m, scale, 4, 9, 1e-3), whole)


def test_derivatives():
    m, scale = stack(2, 3, 4, F64)
    for args in ((4, 4), (3, 4), (2, 9, 1e-2)):
        torch.autograd.gradcheck(
            lambda m, scale, args=args: gx.ops.coupled_newton(m, scale, *args),
            (m.requires_grad_(), scale.requires_grad_()),
        )


def test_functorch_and_compile():
    m, scale = stack(6, 12, 4)
    m, scale = m.unflatten(0, (3, 2)), scale.unflatten(0, (3, 2))
    run = lambda m, scale: gx.ops.coupled_newton(m, scale, 4, 9, 1e-3)  # noqa: E731
    each = torch.stack([run(*one) for one in zip(m, scale, strict=True)])
    torch.testing.assert_close(torch.vmap(run)(m, scale), each, rtol=1e-5, atol=1e-6)
    torch.compiler.reset()
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(m[0], scale[0]), each[0], rtol=1e-5, atol=1e-6)


def test_invalid_arguments():
    m, scale = torch.eye(3).expand(2, 3, 3), torch.ones(2)
    for args, text in (
        ((m[0], scale, 2, 3), r"m must be \(batch, n, n\)"),
        ((m[:, :2], scale, 2, 3), r"m must be \(batch, n, n\)"),
        ((m, scale[:1], 2, 3), r"scale \(batch,\)"),
        ((m.half(), scale.half(), 2, 3), "float32 or float64"),
        ((m, scale.double(), 2, 3), "float32 or float64"),
        ((m, scale, 0, 3), "p must be >= 1, got 0"),
        ((m, scale, 2, 0), "steps must be in"),
        ((m, scale, 2, 1 << 40), "steps must be in"),
        ((m, scale, 2, 3, -1.0), "tol must be >= 0"),
        ((m, scale, 2, 3, 0.0, F64), "low must be"),
        ((m, scale, 2, 3, 0.0, torch.float16, True), "halves are not for products in float16"),
        ((m.double(), scale.double(), 2, 3, 0.0, BF16), "bfloat16 are for float32"),
    ):
        with pytest.raises(ValueError, match=text):
            gx.ops.coupled_newton(*args)
