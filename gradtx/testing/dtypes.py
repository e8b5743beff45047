"""Leaves of half, double and mixed precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.protocol import members
from .claims import require, require_close, require_same, require_same_structure
from .subject import Subject, holds_for_all
from .trees import STEPS, call, number, run, some_grads, some_params, tensors


def run_in(s: Subject, dtype: torch.dtype) -> Any:
    """The run in another precision."""
    return run(s.tx, some_params(dtype=dtype), lambda step: some_grads(step, dtype=dtype))


@holds_for_all
def bf16(s: Subject) -> None:
    """Half precision goes in; what happens is the float32 computation on the widened values."""
    half = torch.bfloat16
    outs, state = run_in(s, half)
    want, want_state = run(
        s.tx,
        tree.cast(some_params(dtype=half), torch.float32),
        lambda step: tree.cast(some_grads(step, dtype=half), torch.float32),
    )
    require_close(tree.cast(outs, torch.float32), want, "the updates", rtol=1e-5)
    require_close(state, want_state, "the state", rtol=1e-5)


@holds_for_all
def updates_are_widened(s: Subject) -> None:
    """Updates travel in at least float32: a chain rounds once, at its end."""
    for half in (torch.bfloat16, torch.float16):
        outs, _ = run_in(s, half)
        for x in tensors(outs):
            require(x.dtype == torch.float32, f"updates of {half} leaves are {x.dtype}")


@holds_for_all
def float64(s: Subject) -> None:
    """Double precision stays double, and agrees with single."""
    double = torch.float64
    outs, state = run_in(s, double)
    require(all(x.dtype == double for x in tensors(outs)), "updates must be float64")
    numbers = [x.dtype for x in tensors(state) if x.ndim == 0]
    # But for those that a codec made narrower.
    require(torch.float32 not in numbers, "numbers of the state are float32")
    require_same_structure((outs, state), s.plain, "in float64")
    for x, y in zip(tensors((outs, state)), tensors(s.plain), strict=True):
        torch.testing.assert_close(x.double(), y.double(), rtol=1e-4, atol=1e-5)


@holds_for_all
def mixed_dtypes(s: Subject) -> None:
    """Every leaf keeps its own accumulator dtype beside leaves of other dtypes."""
    dtypes = {"b": torch.bfloat16, "deep": {"s": torch.float32}, "w": torch.float64}

    def mixed(trees: Any) -> Any:
        return tree.map(lambda x, d: x.to(d), trees, dtypes)

    params = mixed(some_params())
    outs, state = run(s.tx, params, lambda step: mixed(some_grads(step)))
    want = [torch.float32, torch.float32, torch.float64]
    got = [[torch.promote_types(x.dtype, torch.float32) for x in tensors(out)] for out in outs]
    require(got == [want] * STEPS, f"updates beside other dtypes are {got[0]}, not {want}")
    again = call(s.tx, mixed(some_grads(9)), state, params)[1]
    before, after = ([x.dtype for x in tensors(t)] for t in (state, again))
    require(before == after, f"dtypes of the state became {after}, were {before}")


@holds_for_all
def value_of_half_precision(s: Subject) -> None:
    """A loss in half precision is a number like any other; it is computed with in float32."""
    if not any(getattr(m, "needs_value", False) for _, m in members(s.tx)):
        return
    for half in (torch.bfloat16, torch.float16):
        given = number(1.37, half)
        got, want = (_run_with(s, value) for value in (given, given.float()))
        require_same(got, want, f"with a loss in {half}")


def _run_with(s: Subject, value: Tensor) -> Any:
    return run(s.tx, some_params(), some_grads, extra=lambda step, state: {"value": value})
