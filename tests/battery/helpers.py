"""Small trees and runs of a transform over them."""

from __future__ import annotations

from typing import Any

from gradtx.testing.claims import require_close, require_same
from gradtx.testing.trees import call, random_tree, run, structure, tensors
from gradtx.testing.trees import some_grads as grads_
from gradtx.testing.trees import some_params as params_

__all__ = [
    "assert_close",
    "call",
    "grads_",
    "params_",
    "random_tree",
    "run",
    "same_bits",
    "structure",
    "tensors",
]


def same_bits(a: Any, b: Any) -> bool:
    """Same structure, dtypes, shapes and bits (NaN equals the same NaN)."""
    try:
        require_same(a, b, "trees")
    except AssertionError:
        return False
    return True


def assert_close(a: Any, b: Any, rtol: float = 2e-6, atol: float = 1e-6) -> None:
    """Same structure and nearly the same numbers, dtypes included."""
    require_close(a, b, "trees", rtol, atol)
