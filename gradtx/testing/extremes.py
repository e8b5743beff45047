"""Counters at their end, and hyperparameters that reach zero where gradients are zero too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core import tree
from .claims import require, require_finite
from .subject import Subject, holds_for_all
from .trees import call, number, run, some_grads, some_params, tensors, with_hyper

LAST = 2**31 - 1
PERIOD = 1000  # no rhythm that is checked is as long


def is_counter(x: Any) -> bool:
    """Whether it counts steps."""
    return isinstance(x, Tensor) and x.ndim == 0 and x.dtype == torch.int32


def with_counters_at(state: Any, count: int) -> Any:
    """A state all of whose counters stand at a number."""
    return tree.map(lambda x: torch.full_like(x, count) if is_counter(x) else x, state)


@holds_for_all
def counters_stay_at_their_end(s: Subject) -> None:
    """Steps go on as if the count had no end; what has a rhythm goes back by one period."""
    state = with_counters_at(s.state_after(2), LAST)
    for step in range(2):
        out, state = call(s.tx, some_grads(step), state, some_params())
        require_finite((out, state), "at the end of counters")
        for x in filter(is_counter, tensors(state)):
            # Counts of what happened since something else start anew.
            require(x > LAST - PERIOD or x <= 1, f"a counter at its end went to {x.item()}")


def some_zeros(step: int) -> Any:
    """No gradient at all at first, then none for some entries."""
    grads = some_grads(step)
    grads["b"][1] = 0.0
    grads["deep"]["s"] = number(0.0)
    return grads if step else tree.zeros_like(grads)


@holds_for_all
def hyperparameters_may_reach_zero(s: Subject) -> None:
    """Whatever may be zero, or may come as near as one likes, as a tensor: nothing becomes NaN."""
    for d in s.dynamics:
        low, high = d.bounds()
        if low <= 0 <= high:
            hyper = with_hyper({d.key: number(0.0)})
            where = f"with {d.key} = 0, which an interval with a smallest number above it rules out"
            require_finite(run(s.tx, grads=some_zeros, steps=3, extra=hyper), where)
