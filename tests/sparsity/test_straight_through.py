"""Which weights a gradient reaches through a mask."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx

W = torch.tensor([8.0, -4.0, 2.0, -1.0])
MASK = torch.tensor([True, True, False, False])


@pytest.mark.parametrize(
    ("how", "reached"),
    [
        ({}, [0, 1]),
        ({"kind": "threshold", "lower": 1.5}, [0, 1, 2]),
        ({"kind": "threshold", "lower": 5.0}, [0, 1]),
        ({"kind": "band", "lower": 1.0, "upper": 4.0}, [1, 2]),
    ],
)
def test_gradients_reach_what_the_kind_says(how, reached) -> None:
    def value(w: torch.Tensor) -> torch.Tensor:
        return gx.sparsity.straight_through(w, MASK, **how)

    assert value(W).tolist() == [8.0, -4.0, 0.0, 0.0]
    grad = torch.func.grad(lambda w: (value(w) * 3).sum())(W)
    assert grad.nonzero()[:, 0].tolist() == reached
    assert set(grad[reached].tolist()) == {3.0}
    both = torch.stack([W, -W])
    each = torch.func.vmap(value)(both)
    assert torch.equal(each, torch.where(MASK, both, 0))


def test_weights_that_a_gradient_reaches_come_back() -> None:
    target, w = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([1.0, 0.9, 0.5, 0.1])
    for kind, back in (("forward", False), ("threshold", True)):
        p = w.clone().requires_grad_()
        for _ in range(20):
            mask = p.detach().abs() > 0.6
            lower = {"lower": 0.3} if kind == "threshold" else {}
            kept = gx.sparsity.straight_through(p, mask, kind, **lower)
            (grad,) = torch.autograd.grad((kept - target).square().sum(), p)
            p = (p - 0.1 * grad).detach().requires_grad_()
        assert bool(p[2] > 0.6) == back, kind


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"kind": "none"}, "kind must be one of"),
        ({"kind": "threshold"}, "kind 'threshold' needs lower, got None"),
        ({"kind": "band", "lower": 1.0}, "kind 'band' needs upper"),
        ({"lower": 1.0}, "kind 'forward' has no lower, got 1.0"),
        ({"kind": "band", "lower": 2.0, "upper": 1.0}, "needs 0 <= lower < upper"),
        ({"kind": "threshold", "lower": float("nan")}, "needs 0 <= lower"),
        ({"mask": MASK.float()}, "takes a bool tensor of shape"),
        ({"mask": MASK[:2]}, "takes a bool tensor of shape"),
    ],
)
def test_bad_input(how, message) -> None:
    with pytest.raises(ValueError, match=f"straight_through: .*{message}"):
        gx.sparsity.straight_through(W, **{"mask": MASK, **how})
