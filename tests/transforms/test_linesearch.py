"""L-BFGS and line searches against their conditions and torch.optim.LBFGS."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from tests.transforms.small_problems import PROBLEMS, torch_iterations

D = torch.float64
ZOOM = gx.scale_by_zoom_linesearch(initial_guess_strategy="one")


def iterations(
    tx: gx.GradientTransformation, f: Callable[[Any], Tensor], w: Any, below: float, most: int
) -> int:
    state = tx.init(w)
    for n in range(most):
        grads, value = torch.func.grad_and_value(f)(w)
        if value < below:
            return n
        updates, state = tx.update(grads, state, w, value=value, value_fn=f)
        w = gx.apply_updates(w, updates)
    return most


@pytest.mark.parametrize("name", ["rosenbrock", "chain_of_six", "least_squares"])
def test_lbfgs_needs_no_more_iterations_than_torch(name: str) -> None:
    f, w, below = PROBLEMS[name]()
    theirs = torch_iterations(f, w, below, 200)
    assert theirs < 200
    assert iterations(gx.lbfgs(), f, w, below, 200) <= theirs


def test_lbfgs_is_bfgs_while_the_memory_lasts() -> None:
    """The inverse Hessian of two pairs, as matrices."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, dtype=D, generator=generator)
    a = root @ root.T + torch.eye(4, dtype=D)
    tx, w = gx.scale_by_lbfgs(5), torch.randn(4, dtype=D, generator=generator)
    state, points = tx.init(w), []
    for _ in range(3):
        points.append(w)
        updates, state = tx.update(a @ w, state, w)
        w = w - 0.1 * updates
    pairs = [(y - x, a @ (y - x)) for x, y in itertools.pairwise(points)]
    s, y = pairs[-1]
    h = torch.eye(4, dtype=D) * (s @ y) / (y @ y)
    for s, y in pairs:
        left = torch.eye(4, dtype=D) - torch.outer(s, y) / (s @ y)
        h = left @ h @ left.T + torch.outer(s, s) / (s @ y)
    torch.testing.assert_close(updates, h @ a @ points[-1])


def test_pairs_of_negative_curvature_are_left_out() -> None:
    tx, w = gx.scale_by_lbfgs(2), torch.tensor([2.0])
    _, state = tx.update(-w, tx.init(w), w)
    updates, state = tx.update(-(w + 1), state, w + 1)
    assert not state.shared.weights.any()
    assert updates == -1.0


@pytest.mark.parametrize("initial", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("curvature", [0.1, 0.9])
def test_zoom_meets_the_wolfe_conditions(initial: float, curvature: float) -> None:
    def f(w: Tensor) -> Tensor:
        return (100 * (w[1] - w[0] ** 2) ** 2 + (1 - w[0]) ** 2).log1p()

    w = torch.tensor([-1.2, 1.0], dtype=D)
    g = torch.func.grad(f)(w)
    tx = gx.scale_by_zoom_linesearch(curv_rtol=curvature)
    state = tx.init(w)._replace(learning_rate=torch.tensor(initial, dtype=D))
    updates, state = tx.update(-g, state, w, value_fn=f, grads=g)
    slope, there = -g @ g, torch.func.grad(f)(w + updates)
    assert f(w + updates) <= f(w) + 1e-4 * state.learning_rate * slope
    assert abs(there @ -g) <= curvature * abs(slope)
    torch.testing.assert_close(state.grad, there)
    torch.testing.assert_close(state.value, f(w + updates))


def test_backtracking_takes_the_first_rate_that_is_good() -> None:
    tx = gx.scale_by_backtracking_linesearch(decrease_factor=0.5, max_learning_rate=8.0)
    w, tried = torch.tensor(1.0, dtype=D), []

    def f(w: Tensor) -> Tensor:
        tried.append(1)
        return w**2

    state = tx.init(w)._replace(learning_rate=torch.tensor(8.0, dtype=D))
    updates, state = tx.update(-2 * w, state, w, value_fn=f, value=1.0, grads=2 * w)
    assert state.learning_rate == 0.5
    assert updates == -1.0
    assert len(tried) == 5


@pytest.mark.parametrize(
    "tx", [ZOOM, gx.scale_by_backtracking_linesearch()], ids=["zoom", "backtracking"]
)
class TestBoth:
    def test_no_step_uphill(self, tx: Any) -> None:
        w = torch.tensor([1.0, -2.0])
        updates, state = tx.update(2 * w, tx.init(w), w, value_fn=lambda w: w @ w, grads=2 * w)
        assert not updates.any()
        assert state.value == 5.0

    def test_values_that_are_not_finite_are_too_far(self, tx: Any) -> None:
        w = torch.tensor(0.5)
        for f in (lambda w: (1 - 4 * w).abs() - w.log(), lambda w: -w.log() + 5 * w):
            g = torch.func.grad(f)(w)
            updates, _ = tx.update(-g, tx.init(w), w, value_fn=f, grads=g)
            assert f(w + updates) < f(w)

    def test_mapped(self, tx: Any) -> None:
        ws = torch.linspace(-2, 2, 6, dtype=D).reshape(3, 2)
        scales = torch.tensor([1.0, 30.0, 0.01], dtype=D)

        def step(w: Tensor, scale: Tensor) -> Tensor:
            def f(w: Tensor) -> Tensor:
                return scale * (w**4).sum()

            g = torch.func.grad(f)(w)
            return tx.update(-g, tx.init(w), w, value_fn=f, grads=g)[0]

        alone = [step(w, scale) for w, scale in zip(ws, scales, strict=True)]
        torch.testing.assert_close(torch.func.vmap(step)(ws, scales), torch.stack(alone))

    def test_gradients_of_the_caller(self, tx: Any) -> None:
        w: Any = {"a": torch.tensor([1.0, -2.0], dtype=D), "b": None}

        def f(w: Any) -> Tensor:
            return (w["a"] ** 4).sum()

        g = {"a": 4 * w["a"] ** 3, "b": None}
        down = gx.tree.map(torch.neg, g)
        given = tx.update(
            down, tx.init(w), w, value_fn=f, grad_fn=lambda w: {"a": 4 * w["a"] ** 3, "b": None}
        )
        found = tx.update(down, tx.init(w), w, value_fn=f, value=f(w), grads=g)
        torch.testing.assert_close(given[0]["a"], found[0]["a"])
        torch.testing.assert_close(given[1].grad["a"], found[1].grad["a"])

    def test_says_what_is_missing(self, tx: Any) -> None:
        w = torch.ones(2)
        with pytest.raises(ValueError, match="needs value_fn"):
            tx.update(-w, tx.init(w), w)
        with pytest.raises(ValueError, match="needs the parameters"):
            tx.update(-w, tx.init(w), value_fn=torch.sum)
        with pytest.raises(ValueError, match="must be a 0-d tensor"):
            tx.update(-w, tx.init(w), w, value_fn=torch.sum, value=w, grads=w)

    def test_refuses_options(self, tx: Any) -> None:
        with pytest.raises(ValueError, match=r"slope_rtol must be in \(0, 1\), got 2"):
            type(tx)(slope_rtol=2.0)


def test_value_and_grad_come_from_the_state() -> None:
    calls = []

    def f(w: Any) -> Tensor:
        calls.append(1)
        return (w["a"] ** 4).sum()

    w: Any = {"a": torch.tensor([1.0, -2.0], dtype=D)}
    tx, fn = gx.lbfgs(), gx.value_and_grad_from_state(f)
    state = tx.init(w)
    for n in range(3):
        calls.clear()
        value, grad = fn(w, state=state)
        assert len(calls) == (n == 0)
        torch.testing.assert_close(grad["a"], 4 * w["a"] ** 3)
        torch.testing.assert_close(value, (w["a"] ** 4).sum())
        updates, state = tx.update(grad, state, w, value=value, value_fn=f)
        w = gx.apply_updates(w, updates)

    def mapped(w: Tensor, state: Any) -> Any:
        return fn({"a": w}, state=state)

    ws, states = w["a"].expand(2, 2), gx.tree.batch_shape(state, (2,))
    values, grads = torch.func.vmap(mapped)(ws, states)
    torch.testing.assert_close(grads["a"][1], 4 * w["a"] ** 3)
    torch.testing.assert_close(values[0], (w["a"] ** 4).sum())
    with pytest.raises(ValueError, match="must have one line search in it, got 0"):
        fn(w, state=gx.sgd(0.1).init(w))
