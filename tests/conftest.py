"""What all tests share: one thread, reproducible numbers and examples."""

import os

# Threads that wait by spinning take the core of the other worker.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# isort: split

import pytest
import torch
from hypothesis import settings

from gradtx import recipes

torch.set_num_threads(1)
settings.register_profile("gradtx", max_examples=25, deadline=None, derandomize=True)
settings.load_profile("gradtx")


def pytest_runtest_setup() -> None:
    """Every test draws the same numbers in every run, whatever ran before."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what compiles a recipe, whose members are compiled in rows of their own, and
    what hands torch.compile a transform that another row has handed it.
    """
    seen: set[str] = set()
    for item in items:
        row = getattr(item, "callspec", None) and item.callspec.params.get("row")
        if row is None or item.originalname not in ("test_compile", "test_emulated_is_pure"):
            continue
        again = item.originalname == "test_compile" and row.name in seen
        if row.name in recipes.__all__ or again:
            item.add_marker(pytest.mark.slow)
        if item.originalname == "test_compile":
            seen.add(row.name)
