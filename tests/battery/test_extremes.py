"""Counters at their end, and hyperparameters that reach zero where gradients are zero too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import gradtx as gx
from tests.table import Row

from .helpers import call, dynamics, grads_, params_, run, tensors

LAST = 2**31 - 1
PERIOD = 1000  # no rhythm in the table is as long


def is_counter(x: Any) -> bool:
    return isinstance(x, Tensor) and x.ndim == 0 and x.dtype == torch.int32


def counters(tree: Any) -> list[Tensor]:
    return [x for x in tensors(tree) if is_counter(x)]


def finite(*trees: Any) -> bool:
    return all(torch.isfinite(x).all() for tree in trees for x in tensors(tree))


def test_counters_stay_at_their_end(row: Row) -> None:
    """Steps go on as if the count had no end; what has a rhythm goes back by one period."""
    tx, params = row.make(), params_()
    _, state = run(tx, steps=2)
    state = gx.tree.map(lambda x: torch.full_like(x, LAST) if is_counter(x) else x, state)
    for step in range(2):
        out, state = call(tx, grads_(step), state, params)
        assert finite(out, state)
        # Counts of what happened since something else start anew.
        assert all(x > LAST - PERIOD or x <= 1 for x in counters(state))


def some_zeros(step: int) -> Any:
    """No gradient at all at first, then none for some entries."""
    grads = grads_(step)
    grads["b"] = torch.where(torch.tensor([True, False, True]), grads["b"], 0.0)
    grads["deep"]["s"] = torch.zeros(())
    return grads if step else gx.tree.zeros_like(grads)


def test_hyperparameters_may_reach_zero(row: Row) -> None:
    """Whatever may be zero, or may come as near as one likes, as a tensor: nothing becomes NaN."""
    tx = row.make()
    for d in dynamics(tx):
        low, high = d.bounds()
        if low <= 0 <= high:
            hyper = {d.key: torch.tensor(0.0)}
            outs, state = run(tx, grads=some_zeros, steps=3, extra=lambda *_, h=hyper: {"hyper": h})
            assert finite(outs, state), d.key
