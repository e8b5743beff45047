"""Curvature products and gradients from values against full matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx

D = torch.float64
P = {
    "w": torch.tensor([[0.3, -0.7], [1.1, 0.2]], dtype=D),
    "b": torch.tensor([0.4, -0.1], dtype=D),
    "n": None,
}
V = {
    "w": torch.tensor([[1.0, 2.0], [-1.0, 0.5]], dtype=D),
    "b": torch.tensor([0.2, 3.0], dtype=D),
    "n": None,
}
X = torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.1, 0.7]], dtype=D)


def model(p: Any) -> Any:
    return {"out": torch.tanh(X @ p["w"] + p["b"])}


def on_outputs(out: Any) -> Tensor:
    return (out["out"] ** 2).sum() + torch.logsumexp(out["out"].reshape(-1), 0)


def loss(p: Any) -> Tensor:
    return on_outputs(model(p))


def flat(p: Any) -> Tensor:
    return torch.cat([p["w"].reshape(-1), p["b"]])


def unflat(x: Tensor) -> Any:
    return {"w": x[:4].reshape(2, 2), "b": x[4:], "n": None}


HESSIAN = torch.autograd.functional.hessian(lambda x: loss(unflat(x)), flat(P))


def test_products_and_diagonals() -> None:
    out = gx.meta.hvp(loss, P, V)
    assert out["n"] is None
    torch.testing.assert_close(flat(out), HESSIAN @ flat(V))
    torch.testing.assert_close(flat(gx.meta.hessian_diag(loss, P)), HESSIAN.diagonal())
    jacobian = torch.autograd.functional.jacobian(
        lambda x: model(unflat(x))["out"].reshape(-1), flat(P)
    )
    inner = torch.autograd.functional.hessian(
        lambda o: on_outputs({"out": o.reshape(3, 2)}), model(P)["out"].reshape(-1)
    )
    want = jacobian.T @ inner @ jacobian @ flat(V)
    torch.testing.assert_close(flat(gx.meta.ggn_vp(model, on_outputs, P, V)), want)
    with pytest.raises(gx.TreeMismatchError, match="hvp: the vector tree does not match"):
        gx.meta.hvp(loss, P, {"w": V["w"]})


def test_products_under_transforms() -> None:
    vs = torch.stack([V["b"], 2 * V["b"]])
    two = torch.func.vmap(lambda b: flat(gx.meta.hvp(loss, P, V | {"b": b})))(vs)
    torch.testing.assert_close(two[0], HESSIAN @ flat(V))
    through = torch.func.grad(lambda b: flat(gx.meta.hvp(loss, P | {"b": b}, V)).sum())(P["b"])
    step = 1e-5
    for i in range(2):
        moved = [
            flat(gx.meta.hvp(loss, P | {"b": P["b"] + s * torch.eye(2, dtype=D)[i]}, V)).sum()
            for s in (step, -step)
        ]
        torch.testing.assert_close(
            through[i], (moved[0] - moved[1]) / (2 * step), rtol=1e-6, atol=1e-8
        )


def test_hutchinson_converges_and_depends_on_the_seed() -> None:
    exact = HESSIAN.diagonal()
    one, other = (flat(gx.meta.hutchinson(loss, P, 1, seed)) for seed in (0, 1))
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, flat(gx.meta.hutchinson(loss, P, 1, 0)), rtol=0, atol=0)
    many = flat(gx.meta.hutchinson(loss, P, 200, 0))
    assert (many - exact).norm() < 0.15 * exact.norm()
    seeds = torch.func.vmap(lambda s: flat(gx.meta.hutchinson(loss, P, 1, s)))(torch.arange(2))
    torch.testing.assert_close(seeds, torch.stack([one, other]))
    with pytest.raises(ValueError, match="probes must be an integer >= 1"):
        gx.meta.hutchinson(loss, P, 0)


def test_fisher_diag_is_the_mean_of_squares() -> None:
    def one(p: Any, x: Tensor, y: Tensor) -> Tensor:
        return ((x @ p["w"] + p["b"] - y) ** 2).sum()

    y = X.flip(0)
    slopes = [torch.func.grad(lambda z, i=i: one(unflat(z), X[i], y[i]))(flat(P)) for i in range(3)]
    want = torch.stack(slopes).square().mean(0)
    torch.testing.assert_close(flat(gx.meta.fisher_diag(one, P, X, y)), want)


@pytest.mark.parametrize("antithetic", [True, False])
def test_zero_order_is_the_gradient_along_its_noise(antithetic: bool) -> None:
    """A linear function shows z z^T c for its slope c; any other has z z^T times its gradient."""
    estimate = gx.meta.zero_order(loss, 1e-6, 1, 3, antithetic)
    shown = gx.meta.zero_order(lambda p: flat(p).sum(), 1e-6, 1, 3, antithetic)
    with torch.no_grad():
        grads, value = estimate(P)
        z = flat(shown(P)[0])
    z = z / z.sum().abs().sqrt()
    want = z * z.dot(torch.func.grad(lambda x: loss(unflat(x)))(flat(P)))
    torch.testing.assert_close(flat(grads), want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(value, loss(P), rtol=1e-4, atol=1e-4)
    assert grads["n"] is None


def test_samples_are_a_mean() -> None:
    one, two = gx.meta.zero_order(loss), gx.meta.zero_order(loss, samples=2)
    want = (flat(one(P, step=2)[0]) + flat(one(P, step=3)[0])) / 2
    torch.testing.assert_close(flat(two(P, step=1)[0]), want)


def test_zero_order_draws_anew_with_every_step_and_trains() -> None:
    estimate = gx.meta.zero_order(loss, seed=5)
    first, again, other = (estimate(P, step=t)[0] for t in (0, 0, torch.tensor(1)))
    torch.testing.assert_close(flat(first), flat(again), rtol=0, atol=0)
    assert not torch.equal(flat(first), flat(other))
    params, tx = P, gx.adam(0.1)
    state = tx.init(params)
    for t in range(40):
        grads, _ = estimate(params, step=t)
        updates, state = tx.update(grads, state, params)
        params = gx.apply_updates(params, updates)
    assert loss(params) < loss(P) - 0.3
    for bad in ({"sigma": 0.0}, {"samples": 0}):
        with pytest.raises(ValueError, match=f"zero_order: {next(iter(bad))} must be"):
            gx.meta.zero_order(loss, **bad)  # type: ignore[arg-type]
