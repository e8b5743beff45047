"""Every row of the table: how parameters and gradients lie in memory changes no number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.testing.fused import wanted
from tests.fuse.helpers import assert_same, tensors
from tests.table import ROWS, Row

SHAPES = {"b": (7,), "deep": (3, 2, 4), "e": (1, 1), "w": (5, 6)}
# Those that see leaves as matrices or as blocks always, a sample of the others in a quick run.
_ALWAYS = ("adafactor", "apollo", "dion2", "galore_adamw", "in_subspace", "ldadamw", "microadam")


def turned(x: Tensor) -> Tensor:
    """Dense, with the order of dimensions turned round; a vector with gaps."""
    if x.ndim > 1:
        dims = list(reversed(range(x.ndim)))
        return x.permute(dims).clone(memory_format=torch.contiguous_format).permute(dims)
    return torch.stack([x, x], dim=-1)[..., 0]


def lazy(x: Tensor) -> Tensor:
    return torch._neg_view(-x)


FORMS: list[Callable[[Tensor], Tensor]] = [lambda x: x, turned, lazy, lambda x: lazy(turned(x))]


def values(tree: Any) -> Any:
    """The tree with contiguous copies, zeros for tensors without memory."""
    return gx.tree.map(
        lambda x: torch.zeros_like(x) if x._is_zerotensor() else x.contiguous(), tree
    )


def grads_of(t: int) -> dict[str, Tensor]:
    """Gradients of all forms: another one for every leaf, and for a leaf at every step."""
    grads = tensors(SHAPES, t + 1)
    grads = {k: FORMS[(t + i) % 4](g) for i, (k, g) in enumerate(grads.items())}
    if t == 2:
        grads["w"] = torch._efficientzerotensor((5, 6))
    return grads


def _marks(i: int, row: Row) -> tuple[Any, ...]:
    return (pytest.mark.slow,) if i % 6 and row.id not in _ALWAYS else ()


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row.id, marks=_marks(i, row)) for i, row in enumerate(ROWS)]
)
def test_fused_is_pure_in_every_form(row: Row) -> None:
    tx = row.make()
    step, pure_params = gx.fuse(tx), tensors(SHAPES, 0)
    try:
        pure_state = tx.init(pure_params)
    except ValueError as error:
        assert "rank must be" in str(error) or "label tree" in str(error)  # noqa: PT017
        del pure_params["e"]
        pure_state = tx.init(pure_params)
    params = {k: turned(p) for k, p in pure_params.items()}
    state = tx.init(params)
    for t in range(4):
        grads = {k: g for k, g in grads_of(t).items() if k in params}
        params, state = step(params, grads, state, **wanted(tx, grads))
        plain = values(grads)
        updates, pure_state = tx.update(plain, pure_state, pure_params, **wanted(tx, plain))
        pure_params = gx.apply_updates(pure_params, updates)
    loose = 5 if row.name == "prodigy_adv" else 1  # its distance multiplies what rounding makes
    assert_same((params, state), (pure_params, pure_state), rtol=loose * 2e-5, atol=loose * 2e-6)
