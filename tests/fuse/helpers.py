"""Run a chain fused and pure side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import gradtx as gx
from gradtx.testing.fused import wanted

SHAPES = {"b": (7,), "deep": (3, 2, 4), "w": (5, 6)}


def tensors(
    shapes: dict[str, tuple[int, ...]], seed: int, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return {
        k: torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)
        for k, s in shapes.items()
    }


def copy(values: Any) -> Any:
    """The tree with tensors of its own."""
    return gx.tree.map(lambda x: x.clone() if isinstance(x, Tensor) else x, values)


def counted(state: Any, count: int) -> Any:
    """The state with every counter at that number."""

    def is_counter(x: Any) -> bool:
        return isinstance(x, Tensor) and x.ndim == 0 and x.dtype == torch.int32

    return gx.tree.map(lambda x: torch.full_like(x, count) if is_counter(x) else x, state)


def run_both(
    tx: gx.GradientTransformation,
    shapes: dict[str, tuple[int, ...]] = SHAPES,
    dtype: torch.dtype = torch.float32,
    steps: int = 4,
    counts: int = 0,
    **extra: Any,
) -> tuple[Any, Any, Any]:
    """Parameters and state after some steps, fused and pure, and the fused step.

    ``counts`` is where the counters stand before.
    """
    step = gx.fuse(tx)
    params = tensors(shapes, 0, dtype)
    state = counted(tx.init(params), counts)
    pure_params, pure_state = copy(params), copy(state)
    for t in range(steps):
        grads = tensors(shapes, t + 1, dtype)
        given = {**wanted(tx, grads), **extra}
        params, state = step(params, grads, state, **given)
        updates, pure_state = tx.update(grads, pure_state, pure_params, **given)
        pure_params = gx.apply_updates(pure_params, updates)
    return (params, state), (pure_params, pure_state), step


def assert_same(fused: Any, pure: Any, rtol: float = 2e-5, atol: float = 2e-6) -> None:
    """Equal to rounding, entry by entry."""
    a, b = gx.tree.flatten(fused), gx.tree.flatten(pure)
    assert a[1] == b[1]
    for x, y in zip(a[0], b[0], strict=True):
        if isinstance(x, Tensor):
            torch.testing.assert_close(x, y, rtol=rtol, atol=atol, equal_nan=True)
        else:
            assert x == y
