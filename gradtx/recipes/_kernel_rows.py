"""Values of leaves as the operator for their whole chain takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import hyper as hyper_
from ..core.execution import Leaves


def rows_of(
    sources: Sequence[tuple[str, Any]],
    names: Sequence[str],
    leaves: Leaves,
    counts: Sequence[Tensor] | None = None,
) -> Tensor:
    """Values of the hyperparameters for every row, float64 (rows, names) on the CPU.

    Args:
        sources: members with values and their paths, in the order of their states.
        names: of the columns.
        leaves: with the hyperparameters of the step.
        counts: step counts of the members with schedules, in their order; None for all that leaves
            share.
    """
    scheduled = [tx for _, tx in sources if hyper_.is_scheduled(tx)]
    shared = leaves.shared if counts is None else counts
    at = dict(zip(map(id, scheduled), shared, strict=True))
    rows = [[0.0] * len(names) for _ in leaves.hyper]
    for path, tx in sources:
        declared = hyper_.values_at(tx, at.get(id(tx)))
        for r, given in enumerate(leaves.hyper):
            for name, value in declared.items():
                value = given.get(f"{path}.{name}".lstrip("."), value)
                rows[r][names.index(name)] = _number(value)
    return torch.tensor(rows, dtype=torch.float64, device="cpu")


def signs_of(leaves: Leaves) -> list[int]:
    """What the gradients are multiplied with."""
    return [-1 if turned else 1 for turned in leaves.maximize or [False] * len(leaves.params)]


def detached(grads: Sequence[Tensor]) -> list[Tensor]:
    """Gradients as constants."""
    return [g.detach() if g.requires_grad else g for g in grads]


def _number(value: Any) -> float:
    """A hyperparameter as the chain sees it: tensors arrive in the dtype of updates."""
    return float(value.to(torch.float32)) if isinstance(value, Tensor) else float(value)
