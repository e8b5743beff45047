"""Quasi-hyperbolic steps, written out, and what came with them."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx

s = gx.subspace


def test_of_plain_updates() -> None:
    omega, b1, b2, eps = 0.7, 0.9, 0.99, 1e-3
    tx = gx.quasi_hyperbolic(gx.first_moment(b1), gx.root_second_moment(b2, eps), omega)
    g, m, v = torch.randn(3, 5), torch.zeros(5), torch.zeros(5)
    state = tx.init({"w": m})
    for t, each in enumerate(g, 1):
        m, v = b1 * m + (1 - b1) * each, b2 * v + (1 - b2) * each * each
        got, state = tx.update({"w": each}, state)
        want = ((1 - omega) * each + omega * m) / ((v / (1 - b2**t)).sqrt() + eps)
        torch.testing.assert_close(got["w"], want)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (4, 2, 3)])
@pytest.mark.parametrize("across", ["mean", "column", 2.5])
def test_of_coordinates(shape: tuple[int, ...], across: str | float) -> None:
    """The gradient is divided by one number, or by one for every column of coordinates."""
    projector = s.svd(2, "std_left", matricize=True)
    tx = gx.chain(
        gx.project_to_subspace(projector, s.zero_based(1)),
        gx.quasi_hyperbolic(gx.identity(), gx.root_second_moment(0.0), 0.6, across, projector),
    )
    g = torch.randn(shape)
    matrix = g.reshape(shape[0], -1)
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    q = torch.linalg.svd(wide)[0][:, :2]
    z = q.mT @ wide
    sizes = {"mean": z.abs().mean(), "column": z.abs().mean(0), 2.5: 2.5}
    want = 0.4 * wide / sizes[across] + 0.6 * q @ z.sign()
    want = want if wide is matrix else want.mT
    got, _ = tx.update({"w": g}, tx.init({"w": g}))
    torch.testing.assert_close(got["w"], want.reshape(shape), rtol=1e-4, atol=1e-5)


def test_low_rank_updates_need_the_gradient() -> None:
    projector = s.svd(1)
    tx = gx.quasi_hyperbolic(gx.first_moment(), projector=projector)
    state = tx.init({"w": torch.zeros(2, 3)})
    low = gx.LowRankUpdate(torch.ones(1, 3), torch.ones(2, 1), (2, 3), "left")
    with pytest.raises(ValueError, match=r"use it inside gx\.chain"):
        tx.update({"w": low}, state)


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="denominator must be a GradientTransformation, got float"):
        gx.quasi_hyperbolic(gx.first_moment(), 2.0)
    with pytest.raises(ValueError, match="across must be one of"):
        gx.quasi_hyperbolic(gx.first_moment(), across=0.0)


def test_signs_of_a_power_step_are_those_of_a_positive_diagonal() -> None:
    x, old = torch.randn(7, 12), torch.linalg.qr(torch.randn(7, 3)).Q
    q = s.power_iteration(3, "left", signs="diagonal").refresh(s.Basis(old), x).basis
    y = x @ (x.mT @ old)
    assert ((q.mT @ y).diagonal() > 0).all()
    other = s.power_iteration(3, "left").refresh(s.Basis(old), x).basis
    torch.testing.assert_close(other.abs(), q.abs(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="signs must be 'largest' or 'diagonal'"):
        s.power_iteration(3, signs="plus")


def test_a_norm_with_an_eps() -> None:
    """The bound of ``torch.nn.utils.clip_grad_norm_``, to the last bit but one."""
    p = torch.nn.Parameter(torch.zeros(9))
    p.grad = 1e-5 * torch.randn(9)
    got = gx.clip_by_global_norm(1e-5, eps=1e-6).update({"p": p.grad.clone()}, ())[0]["p"]
    torch.nn.utils.clip_grad_norm_([p], 1e-5)
    torch.testing.assert_close(got, p.grad, rtol=1e-6, atol=0)
