"""What all tests share: one thread, reproducible examples."""

import pytest
import torch
from hypothesis import settings

from gradtx import recipes

torch.set_num_threads(1)
settings.register_profile("gradtx", max_examples=25, deadline=None, derandomize=True)
settings.load_profile("gradtx")


# Compiling every recipe takes minutes; its members are compiled in their own rows.
_EXPENSIVE = ("test_compile", "test_emulated_is_pure")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what compiles a whole recipe."""
    for item in items:
        row = getattr(item, "callspec", None) and item.callspec.params.get("row")
        if row is not None and item.originalname in _EXPENSIVE and row.name in recipes.__all__:
            item.add_marker(pytest.mark.slow)
