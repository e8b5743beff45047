"""What a program sets for its model changes no number: autocast, defaults and modes of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from .claims import require_same
from .subject import Subject, holds_for_all
from .trees import STEPS, number, run, some_grads, some_params


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Another default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic algorithms, which also fill memory that is not written yet with NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def surroundings(dtype: torch.dtype = torch.bfloat16) -> Iterator[None]:
    """All settings at once, with a default dtype."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
        stack.enter_context(default_dtype(dtype))
        stack.enter_context(deterministic())
        stack.enter_context(torch.device("meta"))
        yield


@holds_for_all
def settings(s: Subject) -> None:
    """All settings at once, from construction on; the same bits."""
    params, grads = some_params(), [some_grads(step) for step in range(STEPS)]
    extra = {"value": number(1.5)}
    for dtype in (torch.bfloat16, torch.float64):  # what is narrower, and what spreads
        with surroundings(dtype):
            got = run(s.make(), params, lambda step: grads[step], extra=lambda step, state: extra)
        require_same(got, s.plain, f"in other surroundings, by default {dtype}")


@holds_for_all
def inference_mode(s: Subject) -> None:
    """The same bits in inference mode, from construction on."""
    with torch.inference_mode():
        got = run(s.make())
    require_same(got, s.plain, "in inference mode")
