"""What a program sets for its model changes no number: autocast, defaults and modes of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from tests.table import Row

from .helpers import STEPS, grads_, params_, run, same_bits


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic algorithms, which also fill memory that is not written yet with NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def surroundings() -> Iterator[None]:
    """All settings at once."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
        stack.enter_context(default_dtype(torch.bfloat16))
        stack.enter_context(deterministic())
        stack.enter_context(torch.device("meta"))
        yield


def test_surroundings(row: Row) -> None:
    """All settings at once, from construction on; the same bits."""
    want = run(row.make())
    params, grads = params_(), [grads_(step) for step in range(STEPS)]
    extra = {"value": torch.tensor(1.5)}
    with surroundings():
        got = run(row.make(), params, lambda step: grads[step], extra=lambda step, state: extra)
    assert same_bits(got[0], want[0])
    assert same_bits(got[1], want[1])


def test_inference_mode(row: Row) -> None:
    want = run(row.make())
    with torch.inference_mode():
        got = run(row.make())
    assert same_bits(got[0], want[0])
    assert same_bits(got[1], want[1])
