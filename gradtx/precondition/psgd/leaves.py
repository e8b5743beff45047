"""Leaves of ``precondition_by_kron``: their state, and which of them are one batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.declared import Call
from ...core.sums import element_mean


class PreconditionByKronState(NamedTuple):
    """State of ``precondition_by_kron`` for one leaf.

    Attributes:
        step: int32, updates done.
        since: int32, updates since the factors were fitted last.
        skipped: int32, fits left out because something was not finite.
        key: int64 (2,), the leaf's stream of random numbers and its position.
        factors: for every side a matrix (d, d) or a diagonal (d,).
        lipschitz: (sides,), decayed largest sizes of gradients; () where they are not remembered.
    """

    step: Tensor
    since: Tensor
    skipped: Tensor
    key: Tensor
    factors: tuple[Tensor, ...]
    lipschitz: Tensor | tuple[()]


def alike(call: Call, values: dict[str, Any]) -> list[list[int]]:
    """Leaves of one shape, dtype and device with the same hyperparameters; none without entries."""
    there = ((i, u) for i, u in enumerate(call.updates) if u is not None and u.numel())
    return call.alike({i: (u.shape, u.dtype, u.device) for i, u in there}, values)


def stacked(xs: list[Tensor]) -> Tensor:
    """One tensor with a leading dimension; a view of a single one."""
    return torch.stack(xs) if len(xs) > 1 else xs[0][None]


def fourth_moment(x: Tensor) -> Tensor:
    """The mean fourth power, in a dtype that holds it."""
    return element_mean(x.to(torch.float64).square().square())
