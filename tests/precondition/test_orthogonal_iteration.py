"""Refreshes of bases by Cholesky decompositions: as orthogonal as reflections, whatever comes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import gradtx as gx
import gradtx_cuda
from gradtx.ops import OPS
from gradtx.ops.cholesky_iteration import LEAST
from gradtx.precondition.kronecker.orthogonal_iteration import Rotation, iterated, qr, rotate

EPS = 1.2e-7
kernels = pytest.mark.skipif(not gradtx_cuda.status().active, reason="no kernels")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def off(q: Tensor) -> float:
    """The largest norm of a row of q^T q - I, in roundoffs."""
    q = q.double()
    eye = torch.eye(q.shape[-1], dtype=torch.float64)
    return float((q.mT @ q - eye).norm(dim=-1).max() / EPS)


def product(x: Tensor) -> Tensor:
    return x @ x.mT


def graded(d: int, least: float) -> Tensor:
    """A diagonal over so many orders of magnitude, and correlations of one half at most."""
    x = normal(d, 4 * d) / (4 * d) ** 0.5
    return product(x * torch.logspace(0, least / 2, d)[:, None])


def turned(values: Tensor) -> Tensor:
    """These eigenvalues, in a random basis."""
    q = torch.linalg.qr(normal(len(values), len(values)).double())[0]
    s = (q * values.double()) @ q.mT
    return (0.5 * (s + s.mT)).float()


def with_empty_rows(d: int) -> Tensor:
    x = normal(d, 2 * d)
    x[3::5] = 0.0
    return product(x)


D = 100
HOSTILE: dict[str, Callable[[], Tensor]] = {
    "even": lambda: product(normal(D, 5 * D)),
    "descending by 1e-6": lambda: graded(D, -6),
    "descending by 1e-16": lambda: graded(D, -16),
    "ascending by 1e-8": lambda: graded(D, -8).flip(0, 1),
    "rank 30": lambda: product(normal(D, 30)),
    "rank 1": lambda: product(normal(D, 1)),
    "condition 1e4 in another basis": lambda: turned(torch.logspace(0, -4, D)),
    "condition 1e12 in another basis": lambda: turned(torch.logspace(0, -12, D)),
    "empty rows": lambda: with_empty_rows(D),
    "zero": lambda: torch.zeros(D, D),
    "identity": lambda: torch.eye(D),
    "tiny": lambda: product(normal(D, 200)) * 1e-34,
    "huge": lambda: product(normal(D, 200)) * 1e34,
    "indefinite": lambda: turned(torch.linspace(1.0, -1.0, D)),
    "negative": lambda: -product(normal(D, 200)),
    "large": lambda: graded(530, -5),
}


@pytest.mark.parametrize("sorts", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_orthogonal(name: str, sorts: bool) -> None:
    s = HOSTILE[name]()[None]
    d = s.shape[1]
    basis = torch.linalg.qr(normal(d, d, seed=1))[0][None]
    order = s.diagonal(dim1=1, dim2=2).argsort(descending=True) if sorts else ()
    new, q, rotation = iterated(s, basis, order)
    assert off(q[0]) <= 4 * max(off(torch.linalg.qr(s[0])[0]), 8.0)
    # What q is, is told by a turn: Q_new = Q q, and q^T S q.
    r = rotate(torch.eye(d)[None], rotation, 1)
    scale = s.abs().max()
    torch.testing.assert_close(basis @ r, q, rtol=0, atol=2e-4)
    torch.testing.assert_close(
        new / scale if scale else new,
        (r.mT.double() @ (s / scale if scale else s).double() @ r.double()).float(),
        rtol=0,
        atol=1e-4,
    )
    assert torch.equal(new, new.mT)


@kernels
@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_far_from_diagonal_is_given_up(threads: int) -> None:
    """As by the reference, and whatever is beside it in a stack."""
    good, bad = graded(530, -5), graded(530, -5).flip(0, 1)
    stack = torch.stack([good, bad])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        got = gx.ops.cholesky_iteration(stack)
    finally:
        torch.set_num_threads(before)
    want = OPS["cholesky_iteration"].reference(stack)
    assert got[3][0] > LEAST
    assert got[3][1] == want[3][1] == 0
    for x, y in zip(got[:3], want[:3], strict=True):
        assert bool(x[1].isnan().all())
        assert bool(y[1].isnan().all())
        assert not bool(x[0].isnan().any())


@pytest.mark.parametrize("least", [0, -4, -6])
def test_the_same_as_by_reflections(least: int) -> None:
    """With a positive diagonal of r a decomposition is unique."""
    s = graded(90, least)[None]
    want, _ = qr(s.double())
    _, got, _ = iterated(s, torch.eye(90)[None])
    error = (got - want).norm(dim=1).max()
    reference = (qr(s)[0] - want).norm(dim=1).max()
    assert error <= 4 * max(float(reference), 1e-6)


def test_columns_come_in_the_order_given() -> None:
    s, basis = graded(70, -3)[None], torch.linalg.qr(normal(70, 70))[0][None]
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))[None]
    new, got, rotation = iterated(s, basis, order)
    q, _ = qr(s[:, :, order[0]].double())
    torch.testing.assert_close(got, (basis.double() @ q).float(), rtol=0, atol=1e-3)
    torch.testing.assert_close(new, (q.mT @ s.double() @ q).float(), rtol=0, atol=1e-3)
    r = rotate(torch.eye(70)[None], rotation, 1)
    torch.testing.assert_close(r, q.float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [(80,), (80, 30), (30, 80), (7, 80, 5)])
def test_blocks_turn_along_a_side(shape: tuple[int, ...]) -> None:
    """Also where one matrix of a stack was decomposed by reflections."""
    s = torch.stack([graded(80, -3), turned(torch.linspace(1.0, -1.0, 80))])
    order = s.diagonal(dim1=1, dim2=2).argsort(descending=True)
    for permutes in ((), order):
        rotation = iterated(s, torch.eye(80).expand(2, 80, 80), permutes).rotation
        if isinstance(rotation, Rotation):
            assert rotation.divides.tolist() == [True, False]
        q = rotate(torch.eye(80).expand(2, 80, 80), rotation, 1)
        x, side = normal(2, *shape), shape.index(80)
        want = torch.tensordot(x[0], q[0], ([side], [0])).movedim(-1, side)
        got = rotate(x, rotation, side)
        torch.testing.assert_close(got[0], want, rtol=1e-4, atol=1e-4)
        want = torch.tensordot(x[1], q[1], ([side], [0])).movedim(-1, side)
        torch.testing.assert_close(got[1], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_among_itself(bad: float) -> None:
    s = torch.stack([graded(64, -2)] * 3)
    want = iterated(s[:1], torch.eye(64)[None])
    s[1, 5, 7] = s[1, 7, 5] = bad
    got = iterated(s, torch.eye(64).expand(3, 64, 64))
    assert not got.basis[1].isfinite().all()
    for i in (0, 2):
        assert torch.equal(got.basis[i], want.basis[0])
        assert torch.equal(got.factor[i], want.factor[0])


def test_neither_stacks_nor_threads_matter() -> None:
    s = torch.stack([graded(150, -k) for k in (1, 5, 9)])
    basis, before, found = torch.eye(150).expand(3, 150, 150), torch.get_num_threads(), []
    x = normal(3, 40, 150)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            new, q, rotation = iterated(s, basis)
            found.append((new, q, rotate(x, rotation, 1)))
            each = [iterated(one, basis[:1]) for one in s.split(1)]
            turns = [rotate(y, e.rotation, 1) for y, e in zip(x.split(1), each, strict=True)]
            found.append(
                (
                    torch.cat([e.factor for e in each]),
                    torch.cat([e.basis for e in each]),
                    torch.cat(turns),
                )
            )
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@kernels
def test_bases_that_drift_are_corrected() -> None:
    basis = torch.linalg.qr(normal(96, 96))[0]
    basis = basis + 2e-5 * normal(96, 96, seed=1) / 96**0.5
    assert off(basis) > 60
    assert off(iterated(torch.eye(96)[None], basis[None]).basis[0]) < 16


@pytest.mark.parametrize("rank", [20, 200])
def test_refresh_after_refresh(rank: int) -> None:
    """A basis turns into that of the eigenvectors, and stays orthogonal."""
    x = normal(64, rank) * torch.logspace(0, -1.5, 64)[:, None]
    s = product(torch.linalg.qr(normal(64, 64, seed=3))[0] @ x)[None]
    factor, basis = s, torch.eye(64)[None]
    for _ in range(60):
        order = factor.diagonal(dim1=1, dim2=2).argsort(descending=True)
        factor, basis, _ = iterated(factor, basis, order)
        assert off(basis[0]) <= 40
    values = torch.linalg.eigvalsh(s.double()).flip(-1)
    found = factor.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(found[:, :5], values[:, :5].float(), rtol=1e-2, atol=1e-3)
    back = basis.double() @ factor.double() @ basis.double().mT
    torch.testing.assert_close(back.float(), s, rtol=0, atol=2e-5 * float(s.abs().max()))


def test_constants_for_derivatives() -> None:
    s = graded(64, -2)[None].requires_grad_()
    assert not iterated(s, torch.eye(64)[None]).basis.requires_grad
