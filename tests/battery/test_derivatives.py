"""Derivatives through several updates: finite, and right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from tests.table import ROWS, Row

from .helpers import call, dynamics, params_, tensors

# Where the gradient is not zero throughout: one entry of every leaf but the scalar has none.
MASK = {
    "b": torch.tensor([1.0, 0.0, 1.0]),
    "deep": {"s": torch.tensor(0.0)},
    "w": torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]),
}
SIZE = 1e-3  # of the steps: what is learnt may not run away in three of them


def trained(tx: gx.GradientTransformation, params: Any, hyper: Any, steps: int = 3) -> Any:
    """The parameters after some steps against a loss of which some entries are no part."""
    state = tx.init(params)
    for _ in range(steps):
        grads = gx.tree.map(lambda p, m: m.to(p.dtype) * (p - 2) ** 3, params, MASK)
        updates, state = call(tx, grads, state, params, hyper=hyper)
        params = gx.apply_updates(params, gx.tree.map(small, updates))
    return params


def small(update: Any) -> Tensor:
    return SIZE * (update if isinstance(update, Tensor) else update.to_dense())


def test_meta_gradients_are_finite(row: Row) -> None:
    """With respect to parameters and hyperparameters, though some entries have no gradient."""
    tx = row.make()
    hyper = {d.key: torch.tensor(float(d.value)) for d in dynamics(tx) if not callable(d.value)}

    def loss(params: Any, hyper: Any) -> tuple[Tensor, Any]:
        out = trained(tx, params, hyper)
        return sum(((x * x).sum() for x in tensors(out)), torch.zeros(())), out

    grads, out = torch.func.grad(loss, argnums=(0, 1), has_aux=True)(params_(), hyper)
    assert all(torch.isfinite(x).all() for x in tensors(out))
    assert all(torch.isfinite(x).all() for x in tensors(grads))


NAMES = (
    *("lookahead", "schedule_free_sgd", "schedule_free_adamw", "prodigy", "prodigy_adv", "adamw"),
    *("amsgrad", "nadam", "radam", "adagrad", "rmsprop", "adadelta", "adamax", "yogi", "novograd"),
    *("lamb", "ademamix", "adopt", "adafactor", "smmf", "multi_steps", "clip_by_global_norm"),
)


@pytest.mark.parametrize("name", NAMES)
def test_meta_gradients_agree_with_differences(name: str) -> None:
    """With respect to the initial parameters, in float64."""
    tx = next(row for row in ROWS if row.name == name).make()
    params = params_(dtype=torch.float64)
    away = gx.tree.map(lambda p: torch.sin(7 * p), params)

    def moved(by: float) -> Any:
        return gx.tree.map(lambda p, d: p + by * d, params, away)

    def loss(params: Any) -> Tensor:
        out = trained(tx, params, {})
        return sum((((x - 1) ** 2).sum() for x in tensors(out)), torch.zeros(()))

    slope = gx.tree.vdot(torch.func.grad(loss)(params), away)
    want = (loss(moved(1e-6)) - loss(moved(-1e-6))) / 2e-6
    torch.testing.assert_close(slope, want, rtol=1e-5, atol=1e-6)
