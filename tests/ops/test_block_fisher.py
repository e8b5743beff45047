"""Inverses of a Fisher matrix's blocks: kernels and reference against float64, bad input."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

import gradtx as gx
import gradtx_cuda
from gradtx.core.random import make_key, normal
from gradtx.ops import OPS, block_fisher, block_fisher_times

DAMPING = 0.01
kernels = pytest.mark.skipif(not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason)


def gradients(m: int, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return normal(make_key(m, n), (m, n), torch.float64).to(dtype)


def inverse_of(g: Tensor, block: int) -> Tensor:
    """F^-1 as a matrix (n, n)."""
    m, n = g.shape
    at = torch.arange(n) // block
    fisher = DAMPING * torch.eye(n, dtype=torch.float64) + g.mT.double() @ g.double() / m
    return torch.linalg.inv(torch.where(at == at[:, None], fisher, 0))


SIZES = [
    # m, n, block: fewer entries than gradients, as many, more; the last block shorter
    *((m, n, block) for m in (1, 3, 4, 9, 70) for n, block in ((1, 1), (41, 3), (100, 8))),
    *((m, 300, 17) for m in (5, 16, 17, 18, 130)),
    (13, 1000, 131),
    (140, 600, 133),
    (66, 640, 64),
    (64, 650, 64),
    (7, 40, 1000),
]


@pytest.mark.parametrize("backend", ["function", "kernel", "reference"])
@pytest.mark.parametrize(("m", "n", "block"), SIZES)
def test_against_dense_algebra(m, n, block, backend):
    if backend == "function":
        factor_of, times = block_fisher, block_fisher_times
    elif backend == "kernel":
        factor_of, times = (
            getattr(torch.ops.gradtx, name) for name in ("block_fisher", "block_fisher_times")
        )
    else:
        factor_of, times = (OPS[f"block_fisher{end}"].reference for end in ("", "_times"))
    for dtype in (torch.float32, torch.float64):
        g, x = gradients(m, n, dtype), gradients(1, n)[0]
        want = inverse_of(g, block)
        factor, diagonal = factor_of(g, block, DAMPING)
        torch.testing.assert_close(diagonal, want.diagonal(), rtol=1e-9, atol=1e-11)
        got = times(g, factor, x, block, DAMPING)
        torch.testing.assert_close(got, want @ x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("block", [9, 250, 1000])
def test_some_at_a_time(monkeypatch, block):
    g, x = gradients(5, 1000, torch.float32), gradients(1, 1000)[0]
    factor, diagonal = OPS["block_fisher"].reference(g, block, DAMPING)
    whole = OPS["block_fisher_times"].reference(g, factor, x, block, DAMPING)
    monkeypatch.setattr(sys.modules["gradtx.ops.block_fisher"], "_PIECE", 300)
    for got, want in zip(
        OPS["block_fisher"].reference(g, block, DAMPING), (factor, diagonal), strict=True
    ):
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        OPS["block_fisher_times"].reference(g, factor, x, block, DAMPING), whole
    )


@pytest.mark.parametrize("m", [5, 40])
def test_what_kernels_call_on_other_processors(m):
    g, x, reference = gradients(m, 100), gradients(1, 100)[0], torch.ops.gradtx
    want = OPS["block_fisher"].reference(g, 9, DAMPING)
    got = reference.block_fisher_reference(g, 9, DAMPING)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert torch.equal(
        reference.block_fisher_times_reference(g, got[0], x, 9, DAMPING),
        OPS["block_fisher_times"].reference(g, got[0], x, 9, DAMPING),
    )


@kernels
@pytest.mark.parametrize("m", [5, 40])
def test_what_lies_otherwise(m):
    g = gradients(2 * m, 700, torch.float32)
    want = torch.ops.gradtx.block_fisher(g[::2].contiguous(), 30, DAMPING)
    for rows in (g[::2], g.mT.contiguous().mT[::2]):
        factor, diagonal = torch.ops.gradtx.block_fisher(rows, 30, DAMPING)
        assert torch.equal(factor, want[0])
        assert torch.equal(diagonal, want[1])
        x = gradients(1, 1400)[0]
        got = torch.ops.gradtx.block_fisher_times(rows, factor, x[::2], 30, DAMPING)
        assert torch.equal(
            got, block_fisher_times(rows.contiguous(), factor, x[::2].contiguous(), 30, DAMPING)
        )


@kernels
@pytest.mark.parametrize("m", [5, 40])
def test_bits_do_not_depend_on_threads(m):
    g, before, out = gradients(m, 3000, torch.float32), torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            factor, diagonal = torch.ops.gradtx.block_fisher(g, 24, DAMPING)
            again = torch.ops.gradtx.block_fisher_times(g, factor, diagonal, 24, DAMPING)
            out.append(torch.cat([factor.flatten(), diagonal, again]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*out)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e300])
@pytest.mark.parametrize("m", [5, 40])
def test_what_is_not_finite_stays_in_its_block(m, bad):
    g = gradients(m, 200)
    _, want = block_fisher(g, 16, DAMPING)
    g[2, 37] = bad
    factor, diagonal = block_fisher(g, 16, DAMPING)
    assert diagonal[32:48].isnan().all()
    assert factor[2].isnan().all()
    keep = torch.ones(200, dtype=torch.bool)
    keep[32:48] = False
    assert torch.equal(diagonal[keep], want[keep])
    assert block_fisher_times(g, factor, want, 16, DAMPING).isnan().equal(~keep)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(("m", "block"), [(3, 7), (7, 3)])
def test_derivatives(m, block):
    g, x = gradients(m, 20).requires_grad_(), gradients(1, 20)[0].requires_grad_()

    def both(g: Tensor, x: Tensor) -> Tensor:
        factor, diagonal = block_fisher(g, block, 0.5)
        return torch.cat([diagonal, block_fisher_times(g, factor, x, block, 0.5)])

    assert torch.autograd.gradcheck(both, (g, x), check_forward_ad=True)
    mapped = torch.func.vmap(both)(torch.stack([g, -g]).detach(), torch.stack([x, x]).detach())
    torch.testing.assert_close(mapped[0], both(g, x).detach())
    torch.testing.assert_close(mapped[1], mapped[0])


def test_the_inverse_of_many_gradients_of_few_entries_does_not_cancel():
    """Entries that gradients cover well: 1 - sum Y^2 would lose ten digits."""
    g = 1e3 * gradients(60, 24)
    _, diagonal = block_fisher(g, 6, 1e-4)
    fisher = g.mT @ g / 60 + 1e-4 * torch.eye(24, dtype=torch.float64)
    for k in range(0, 24, 6):
        want = torch.linalg.inv(fisher[k : k + 6, k : k + 6]).diagonal()
        torch.testing.assert_close(diagonal[k : k + 6], want, rtol=1e-12, atol=0)


def test_bad_input():
    g, x = gradients(3, 8), gradients(1, 8)[0]
    factor, _ = block_fisher(g, 2, DAMPING)
    with pytest.raises(ValueError, match=r"block_fisher: gradients must be \(m, n\) with m >= 1"):
        block_fisher(g[:0], 2, DAMPING)
    with pytest.raises(ValueError, match="gradients must be float32 or float64, got"):
        block_fisher(g.long(), 2, DAMPING)
    with pytest.raises(ValueError, match="block must be >= 1, got 0"):
        block_fisher(g, 0, DAMPING)
    with pytest.raises(ValueError, match="damping must be > 0, got inf"):
        block_fisher(g, 2, float("inf"))
    with pytest.raises(ValueError, match=r"factor must be float64 \(4, 3\), got torch.float32"):
        block_fisher_times(g, factor.float(), x, 2, DAMPING)
    with pytest.raises(ValueError, match=r"x must be float64 \(8,\), got torch.float64 \(7,\)"):
        block_fisher_times(g, factor, x[1:], 2, DAMPING)


def test_half_precision_is_widened():
    rows = gradients(9, 80, torch.bfloat16)
    got, want = (gx.sparsity.inverse_fisher(r, 0.1, 8) for r in (rows, rows.float()))
    assert torch.equal(got.diagonal(), want.diagonal())
