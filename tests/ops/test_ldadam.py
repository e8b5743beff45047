"""LDAdam's two operators, against their formulas in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from gradtx.__main__ import has_kernel
from gradtx.ops import OPS, ldadam_columns, ldadam_moments_
from gradtx.ops.ldadam import columns, moments

KERNEL = has_kernel("ldadam_moments_", "CPU")
# (size, length, rank): tails of tiles and of blocks, several of them.
SHAPES = [(1, 1, 1), (3, 7, 3), (40, 130, 17), (90, 700, 64), (70, 2100, 5), (300, 310, 130)]
# gain, ratio, take1, take2, floor and slope
WEIGHTS = torch.tensor([9.0, 1.3, 0.1, 0.7, 1e-3, 2.0])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def basis(size: int, rank: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, rank)).Q.contiguous()


def operands(size: int, length: int, rank: int, left: bool) -> tuple[Tensor, ...]:
    """X, both bases and both moments."""
    x, m, v = torch.randn(size, length), torch.randn(rank, length), torch.rand(rank, length)
    if not left:
        x, m, v = x.mT.contiguous(), m.mT.contiguous(), v.mT.contiguous()
    return x, basis(size, rank), basis(size, rank), m, v


def assert_near(actual: Tensor, expected: Tensor, scale: float = 1.0) -> None:
    bound = scale * 4e-6 * max(1.0, expected.abs().max().item() if expected.numel() else 0.0)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=bound)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_columns(shape, left, threads):
    x, p, _, m, _ = operands(*shape, left)
    weight = torch.tensor(-0.8)
    want = columns(*(z.double() for z in (x, p, m, weight)), left)
    for given in (x, x.mT.contiguous().mT, x.repeat_interleave(2, 1)[:, ::2]):
        out = ldadam_columns(given, p, m, weight, left)
        assert out.is_contiguous()
        assert_near(out, want)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_moments(shape, left, threads):
    x, q, p, m, v = operands(*shape, left)
    doubles = [z.double() for z in (x, q, p, m, v, WEIGHTS)]
    out, mu, nu = moments(*doubles, left)
    assert_near(ldadam_moments_(x, q, p, m, v, WEIGHTS, left), out, 1e3)  # 1 / floor
    assert_near(m, mu)
    assert_near(v, nu)


@pytest.mark.parametrize("left", [False, True])
def test_of_several_matrices_the_formulas_give_what_each_alone_has(left):
    each = [operands(9, 12, 4, left) for _ in range(3)]
    x, q, p, m, v = (torch.stack(column) for column in zip(*each, strict=True))
    numbers = WEIGHTS * torch.tensor([[1.0], [0.5], [2.0]])
    batch = columns(x, p, m, numbers[:, 0], left)
    new = moments(x, q, p, m, v, numbers, left)
    for i in range(3):
        alone = columns(x[i], p[i], m[i], numbers[i, 0], left)
        torch.testing.assert_close(batch[i], alone, rtol=1e-5, atol=1e-5)
        own = moments(x[i], q[i], p[i], m[i], v[i], numbers[i], left)
        for a, b in zip(new, own, strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_shows_up(bad):
    x, q, p, m, v = operands(90, 700, 64, True)
    x[3, 7] = bad
    assert not ldadam_columns(x, p, m, WEIGHTS[0], True)[3].isfinite().any()
    out = ldadam_moments_(x, q, p, m, v, WEIGHTS, True)
    where = torch.arange(700) == 7
    for z in (out, m, v):
        assert torch.equal(z.isfinite().all(0), ~where)


def test_a_call_gives_the_same_bits_again(threads):
    x, q, p, m, v = operands(90, 700, 64, True)
    one, two = ((m.clone(), v.clone()) for _ in range(2))
    first, second = (ldadam_moments_(x, q, p, *z, WEIGHTS, True) for z in (one, two))
    for a, b in zip((first, *one), (second, *two), strict=True):
        assert torch.equal(a, b)


def test_opcheck_of_the_operator_in_place():
    opcheck(ldadam_moments_, (*operands(9, 12, 4, False), WEIGHTS, False))
    assert OPS["ldadam_moments_"].mutates


def test_reference():
    x, q, p, m, v = operands(9, 12, 4, True)
    first, second = m.clone(), v.clone()
    out = OPS["ldadam_moments_"].reference(x, q, p, first, second, WEIGHTS, True)
    assert_near(ldadam_moments_(x, q, p, m, v, WEIGHTS, True), out.double(), 1e3)
    assert_near(m, first.double())
    assert_near(v, second.double())


@pytest.mark.skipif(not KERNEL, reason="no CPU kernels")
def test_bad_input():
    x, q, p, m, v = operands(9, 12, 4, True)
    before = m.clone(), v.clone()
    for wrong in (
        (x, q, p, m, v[:, :3], WEIGHTS, True),
        (x, q, p[:3], m, v, WEIGHTS, True),
        (x, q, p, m.mT.contiguous().mT, v, WEIGHTS, True),
        (x, q, p, m, v, WEIGHTS[:5], True),
        (x.double(), q, p, m, v, WEIGHTS, True),
        (x, q, p, m, v, WEIGHTS, False),
    ):
        with pytest.raises(RuntimeError, match="ldadam"):
            ldadam_moments_(*wrong)
    with pytest.raises(RuntimeError, match="ldadam_columns: the weight must be one number"):
        ldadam_columns(x, p, m, WEIGHTS, True)
    assert torch.equal(m, before[0])
    assert torch.equal(v, before[1])
