"""Derivatives through updates are finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.apply import apply_updates
from ..core.leaves import densify_leaf
from ..core.protocol import GradientTransformation
from .claims import require_finite
from .subject import Subject, holds_for_all
from .trees import call, number, some_grads, some_params, tensors

# Where the gradient is not zero throughout: one entry of every leaf but the scalar has none.
MASK = {
    "b": torch.tensor([1.0, 0.0, 1.0], dtype=torch.float32, device="cpu"),
    "deep": {"s": number(0.0)},
    "w": torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float32, device="cpu"),
}
SIZE = 1e-3  # of the steps: what is learnt may not run away in three of them


def sum_of(trees: Any) -> Tensor:
    """The sum of all numbers of trees."""
    return sum((x.sum() for x in tensors(trees)), number(0.0))


@holds_for_all
def grad_through_update(s: Subject) -> None:
    """With respect to gradients, through two updates."""
    params, state = some_params(), s.state_after(1)

    def total(grads: Any) -> Tensor:
        first, new = call(s.tx, grads, state, params)
        second, _ = call(s.tx, grads, new, params)
        return sum_of((first, second))

    require_finite(torch.func.grad(total)(some_grads(1)), "the derivatives by gradients")


@holds_for_all
def grad_through_hyper(s: Subject) -> None:
    """With respect to all dynamic hyperparameters, through an update."""
    params, state = some_params(), s.state_after(1)
    values = {d.key: number(d.other_value()) for d in s.dynamics}
    if not values:
        return

    def total(hyper: Any) -> Tensor:
        return sum_of(call(s.tx, some_grads(1), state, params, hyper=hyper))

    require_finite(torch.func.grad(total)(values), "the derivatives by hyperparameters")


def trained(tx: GradientTransformation, params: Any, hyper: Any, steps: int = 3) -> Any:
    """The parameters after some steps against a loss of which some entries are no part."""
    state = tx.init(params)
    for _ in range(steps):
        grads = tree.map(lambda p, m: m.to(p.dtype) * (p - 2) ** 3, params, MASK)
        updates, state = call(tx, grads, state, params, hyper=hyper)
        params = apply_updates(params, tree.map(lambda u: SIZE * densify_leaf(u), updates))
    return params


@holds_for_all
def meta_gradients_are_finite(s: Subject) -> None:
    """With respect to parameters and hyperparameters, though some entries have no gradient."""
    hyper = {d.key: number(float(d.value)) for d in s.dynamics if not callable(d.value)}

    def loss(params: Any, hyper: Any) -> tuple[Tensor, Any]:
        out = trained(s.tx, params, hyper)
        return sum_of(tree.map(lambda x: x * x, out)), out

    derive = torch.func.grad(loss, argnums=(0, 1), has_aux=True)
    grads, out = derive(some_params(), hyper)
    require_finite(out, "the parameters after three steps")
    require_finite(grads, "the derivatives through three steps")
